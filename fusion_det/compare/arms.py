"""What is compared: arms, each a list of overrides of tools/train.py, with readable names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion_det.config.overrides import split
from fusion_det.errors import ConfigError, raise_all

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}")
"""An arm's name is a folder's name, a table's and a plot's."""
RESERVED = {"seed": "give seeds=", "run_dir": "the study chooses the folders; see folder=", "resume": "every run goes on by itself"}
"""Keys of a training run that the study itself sets, and what to do about them."""


@dataclass(frozen=True)
class Arm:
    """One way to build and train a detector."""

    name: str
    words: tuple[str, ...]
    """Overrides of tools/train.py, and ``tta.*`` of tools/evaluate.py."""


def parse_arms(value: str | Sequence[str] | Mapping[str, str | Sequence[str]]) -> list[Arm]:
    """Arms out of ``'neck=fpn; gated: neck=fpn fusion=aff'``, a list of such texts, or a mapping of names to overrides.

    An arm without a name gets one from the values by which it differs. Raises ``ConfigError`` (all faults at once): names that
    cannot be folders or occur twice, keys of :data:`RESERVED`, texts with open quotes.
    """
    if isinstance(value, Mapping):
        named: list[tuple[str | None, tuple[str, ...]]] = [(str(name), _words_of(text)) for name, text in value.items()]
    else:
        texts = [value] if isinstance(value, str) else list(value)
        named = [_take_name(words) for text in texts for words in _split_arms(text)]
    fallback = iter(automatic_names([words for _, words in named]))
    arms = [Arm(name if name is not None else automatic, words) for (name, words), automatic in zip(named, fallback, strict=True)]
    raise_all(_faults(arms))
    return arms


def check_words(words: Sequence[str], where: str) -> list[ConfigError]:
    """Faults of overrides that a study must set itself."""
    keys = {split(word).key: word for word in words}
    return [ConfigError(f"{keys[key]} cannot be given here", where=where, mend=mend) for key, mend in RESERVED.items() if key in keys]


def automatic_names(arms: Sequence[Sequence[str]]) -> list[str]:
    """A short name per arm: the values of the words that not all arms share; numbers with their key (``channels64``); unique."""
    shared = {word for word in arms[0] if all(word in words for words in arms)} if len(arms) > 1 else set()
    if any(shared.issuperset(words) for words in arms):
        shared = set()
    names: list[str] = []
    for words in arms:
        text = "-".join(_short(word) for word in words if word not in shared) or "default"
        name = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._+")[:50] or "arm"
        count = sum(other.lower() == name.lower() for other in names)
        names.append(name if not count else f"{name}-{count + 1}")
    return names


def _short(word: str) -> str:
    key, value = split(word).key, split(word).value
    leaf = key.rpartition(".")[2]
    if value is None:
        return f"no-{leaf}"
    if value in ("true", "false"):
        return leaf if value == "true" else f"no-{leaf}"
    return value if "." not in key and re.fullmatch(r"[A-Za-z_][\w.+-]*", value) else f"{leaf}{value}"


def _split_arms(text: str) -> list[tuple[str, ...]]:
    """The words of each arm of ``text``; arms end at ``;``, quotes keep what is inside together."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";")
    lexer.whitespace_split, lexer.commenters = True, ""
    arms: list[list[str]] = [[]]
    try:
        for token in lexer:
            if set(token) == {";"}:
                arms.append([])
            else:
                arms[-1].append(token)
    except ValueError as error:
        raise ConfigError(f"cannot be read: {str(error).lower()} in {text!r}", where="arms", mend="close the quotes") from error
    return [tuple(words) for words in arms if words]


def _words_of(text: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(text, str):
        return tuple(text)
    arms = _split_arms(text)
    if len(arms) > 1:
        raise ConfigError(f"several arms under one name: {text!r}", where="arms", mend="give each arm its own name")
    return arms[0] if arms else ()


def _take_name(words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """``fpn: neck=fpn`` is named ``fpn``."""
    return (words[0][:-1], words[1:]) if words[0].endswith(":") and "=" not in words[0] else (None, words)


def _faults(arms: Sequence[Arm]) -> list[ConfigError]:
    faults = []
    if len(arms) < 2:
        faults.append(ConfigError(f"{len(arms)} given, a comparison needs two", where="arms", mend="write arms='neck=fpn; neck=bifpn'"))
    seen: dict[str, str] = {}
    for arm in arms:
        if not NAME.fullmatch(arm.name):
            shown = ascii(arm.name)
            faults.append(ConfigError(f"{shown} cannot be a name", where="arms", mend="use letters, digits, . _ + - (at most 60)"))
        elif arm.name.lower() in seen:
            faults.append(ConfigError(f"two arms are called {arm.name}", where="arms", mend="write NAME: before the overrides of one"))
        seen[arm.name.lower()] = arm.name
        faults += check_words(arm.words, f"arms.{arm.name}")
        faults += [
            ConfigError(f"{word!a} is not KEY=VALUE", where=f"arms.{arm.name}", mend="write key=value or group=option")
            for word in arm.words
            if "=" not in word and not word.startswith("~")
        ]
    return faults
