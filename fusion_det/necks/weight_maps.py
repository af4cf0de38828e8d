"""Renaming the parameters of a reference implementation to ours, by rules a reader can check line by line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor


def rename(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """``state`` under our names, for ``load_state_dict``; the rules of each published neck are in ``docs/parity.md``.

    A rule is (start of their name, start of ours), such as ``("lateral_convs.{i}.conv", "entries.C{i+2}.0")``: ``{i}`` stands for a
    number, and the right side may add to it, take away from it or take it from a number (``{5-i}``). The rest of the name is kept.
    The first rule that fits counts; an empty right side leaves the tensor out. ``ValueError`` for names that no rule fits, and for
    two tensors of one new name.
    """
    compiled = [(_pattern(theirs), ours) for theirs, ours in rules]
    renamed: dict[str, Tensor] = {}
    lost: list[str] = []
    for name, tensor in state.items():
        found = next(((match, ours) for pattern, ours in compiled if (match := pattern.match(name))), None)
        if found is None:
            lost.append(name)
        elif found[1]:
            new = _fill(found[1], found[0]) + name[found[0].end() :]
            if new in renamed:
                raise ValueError(f"weight map: two tensors would be called {new!r}, the second is {name!r}")
            renamed[new] = tensor
    if lost:
        others = f" and {len(lost) - 5} others" if len(lost) > 5 else ""
        raise ValueError(f"weight map: no rule fits {lost[:5]}{others}; the rules start with {[theirs for theirs, _ in rules]}")
    return renamed


def reorder_choice(state: dict[str, Tensor], name: str, order: Sequence[int]) -> None:
    """Bring the choice between inputs ``name`` (``operators.P5.weight_levels``) of ASFF and AFPN from their order of inputs to ours.

    It has a row, and a block of columns, per input. ``order``: for each of our inputs, the own level first, its place among theirs.
    """
    weight, bias, places = state[f"{name}.weight"], state[f"{name}.bias"], list(order)
    if sorted(places) != list(range(len(weight))):
        raise ValueError(f"weight map: {name} has {len(weight)} inputs, expected an order of 0 to {len(weight) - 1}, got {places}")
    state[f"{name}.weight"] = weight[places].unflatten(1, (len(places), -1))[:, places].flatten(1, 2)
    state[f"{name}.bias"] = bias[places]


def _pattern(theirs: str) -> re.Pattern[str]:
    """Their name up to a dot or the end, with numbers for ``{i}``."""
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(theirs)) + r"(?=\.|$)")


def _fill(ours: str, match: re.Match[str]) -> str:
    """Our name with the numbers of ``match`` in it."""

    def number(field: re.Match[str]) -> str:
        start, name, sign, term = field.groups()
        value = int(match[name])
        value = int(start) - value if start else value
        return str(value + int(f"{sign}{term}") if sign else value)

    return re.sub(r"\{(?:(\d+)-)?([a-z])(?:([+-])(\d+))?\}", number, ours)
