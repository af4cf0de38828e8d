"""The nearest valid word to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_SHARE = 0.34
"""A hint may differ in at most this share of the typed letters (and always in one)."""


def edit_distance(a: str, b: str) -> int:
    """Number of single-letter insertions, deletions, changes and swaps of neighbours that turn ``a`` into ``b``."""
    before_last: list[int] = []
    last = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
        before_last, last = last, row
    return last[-1]


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice with the fewest edits from ``word`` (ties: most alike by :mod:`difflib`), or ``None`` if none is near."""
    limit = max(1, int(len(word) * MAX_SHARE))
    ranked = [
        (distance, -difflib.SequenceMatcher(None, word, choice).ratio(), choice)
        for choice in choices
        if abs(len(choice) - len(word)) <= limit and (distance := edit_distance(word, choice)) <= limit
    ]
    return min(ranked)[2] if ranked else None


def nearest_key(key: str, valid: Iterable[str]) -> str | None:
    """The valid dotted key meant by ``key``: few edits over all of it, else a key elsewhere in the tree whose last part fits."""
    valid = list(valid)
    node, _, leaf = key.rpartition(".")
    siblings = [other for other in valid if other.rpartition(".")[0] == node]
    here = nearest(leaf, [other.rpartition(".")[2] for other in siblings])
    whole = nearest(key, valid)
    if here is not None:
        sibling = f"{node}.{here}" if node else here
        if whole is None or edit_distance(key, sibling) <= edit_distance(key, whole):
            return sibling
    if whole is not None:
        return whole
    elsewhere = nearest(leaf, [other.rpartition(".")[2] for other in valid])
    return min((other for other in valid if other.rpartition(".")[2] == elsewhere), key=lambda k: (k.count("."), k), default=None)
