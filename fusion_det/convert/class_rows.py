"""Which class of a foreign classifier serves which class of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class ClassRows(NamedTuple):
    """Columns of classifiers (classes, and background first where ours has it): ``theirs[i]`` goes to ``ours[i]``."""

    ours: list[int]
    theirs: list[int]
    note: str


def match_classes(
    ours: int, theirs: int, *, background: bool, class_names: Sequence[str] | None, categories: Sequence[str]
) -> ClassRows | None:
    """The columns to take, or ``None`` where the classes have nothing in common.

    ``ours``, ``theirs``: columns of the classifiers. Theirs always starts with a background class, taught or not; ours has it if
    ``background`` (a softmax). ``categories``: what theirs were published with (COCO's 91 ids, of which 80 are in use). A file with as
    many columns is matched by name, and without names ours are taken for COCO's 80 if they are as many. Files of another number of
    classes fit if they have as many as we.
    """
    start = int(background)
    count = ours - start
    own = [0] if background else []
    used = [i for i, name in enumerate(categories) if i and name != "N/A"]
    if theirs == len(categories):
        names = class_names if class_names is not None else [categories[i] for i in used] if count == len(used) else []
        places = {categories[i].casefold(): i for i in used}
        found = {k + start: places[name.casefold()] for k, name in enumerate(names) if name.casefold() in places}
        if found:
            note = f"classes: {len(found)} of {count} taken from the {theirs - 1} of the file by name"
            rest = count - len(found)
            note += f", the other {rest} keep their initial weights" if rest else ""
            return ClassRows([*own, *found], [*own, *found.values()], note)
    if theirs == count + 1:
        return ClassRows(list(range(ours)), list(range(1 - start, theirs)), f"classes: all {count} taken in order")
    if theirs == ours:
        return ClassRows(list(range(ours)), list(range(theirs)), f"classes: all {theirs} columns taken in order, the first is background")
    return None


def take_rows(own: Tensor, found: Tensor, shapes: int, rows: ClassRows) -> Tensor:
    """``own`` [shapes * ours, ...] with the chosen columns of ``found`` [shapes * theirs, ...] for each of the ``shapes`` of a cell."""
    taken = own.clone().unflatten(0, (shapes, -1))
    taken[:, rows.ours] = found.to(own.dtype).unflatten(0, (shapes, -1))[:, rows.theirs]
    return taken.flatten(0, 1)
