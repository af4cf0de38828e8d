"""Groups inside parts: ``backbone.fusion=aff`` where the backbone's YAML placed the group ``fusion`` with ``- /fusion@fusion: add``.

Hydra wants ``fusion@backbone.fusion=aff`` for it, and would take the plain form for a text in the place of the whole node. A group that is
found inside parts only needs no owner: ``roi_fusion=ion`` is ``head.roi_fusion=ion``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fusion_det.config.overrides import Override, split

_OPTION = re.compile(r"(?!(true|false|null)$)[A-Za-z_][\w.+-]*", re.IGNORECASE)
"""What may be the name of an option: no number, list, mapping or quoted text."""


INNER = ("roi_fusion",)
"""Groups that no tool chooses at the top; named alone they mean the one part that has placed them."""


def placements(choices: Mapping[str, object]) -> dict[str, str]:
    """Dotted key -> group, for every choice such as ``fusion@backbone.fusion``."""
    pairs = (str(choice).split("@") for choice in choices if "@" in str(choice))
    return {key: group for group, key in pairs if "." in key}


def may_choose(text: str) -> bool:
    """Whether the override may be meant as the choice of an option inside a part."""
    override = split(text)
    return not override.mark and not override.package and "." in override.key and _OPTION.fullmatch(override.value or "") is not None


def is_inner(text: str) -> bool:
    """Whether the override names a group of :data:`INNER` without its owner, or a key inside it."""
    override = split(text)
    return not override.mark and not override.package and override.key.partition(".")[0] in INNER


def with_owner(overrides: Iterable[str], placed: Mapping[str, str]) -> list[str]:
    """``roi_fusion.span=2`` as ``head.roi_fusion.span=2``, if one part alone has placed that group; all else as it is."""
    owners = {group: [key for key, name in placed.items() if name == group] for group in INNER}
    found = []
    for text in overrides:
        group, dot, rest = split(text).key.partition(".")
        owner = owners.get(group, [])
        known = is_inner(text) and len(owner) == 1
        found.append(split(text)._replace(key=f"{owner[0]}{dot}{rest}").text if known else text)
    return found


def place(overrides: Iterable[str], placed: Mapping[str, str]) -> list[str]:
    """``backbone.fusion=aff`` as ``fusion@backbone.fusion=aff`` for each key of ``placed``; all else as it is."""
    return [f"{placed[split(text).key]}@{text}" if may_choose(text) and split(text).key in placed else text for text in overrides]


def as_typed(override: Override) -> Override:
    """``fusion@backbone.fusion=aff`` as a user types it: under the key that it fills."""
    return override._replace(key=override.package[1:], package="") if override.package else override
