"""From a plain config to a detector: the one module that knows how the parts fit together."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fusion_det.config.files import write_atomic
from fusion_det.config.instantiate import TARGET, build, resolve
from fusion_det.data.buckets import buckets_of
from fusion_det.detector import Detector
from fusion_det.errors import ConfigError, FusionDetError
from fusion_det.rehearsal import CannotRehearseError, Size, describe, looks_at_values, rehearse
from fusion_det.structures import LevelSpec, check_levels

logger = logging.getLogger(__name__)

PARTS = ("backbone", "neck", "head")
"""Children of every detector."""
NO_WEIGHTS = {"pretrained": False, "weights": None}
"""The keys by which a backbone or a part of the head may name weights to start from, with the values that mean none."""


def build_detector(cfg: Mapping[str, Any], num_classes: int, *, seed: int, load_pretrained: bool = True) -> Detector:
    """backbone -> neck(levels) -> head(levels) -> detector, each with initial weights drawn from a generator of its own.

    ``cfg`` holds the nodes ``backbone``, ``neck``, ``fusion``, ``block``, ``head`` and ``late_fusion``. As each component is seeded by
    its name, two detectors with different necks start from the same backbone and head. With ``load_pretrained`` false no weight file
    is read (the weights will come from a checkpoint). What does not fit raises ``ConfigError`` before any data is touched.
    """
    if not load_pretrained:
        cfg = {**cfg, "backbone": _without_weights(cfg["backbone"]), "head": _without_weights(cfg["head"])}
    with _component(seed, "backbone"):
        backbone = build(cfg["backbone"])
        levels = _levels(backbone, "backbone")
        mean, std = (_per_channel(backbone, name) for name in ("mean", "std"))
    with _component(seed, "neck", levels):
        neck = build(cfg["neck"], levels, _part(cfg, "fusion"), _part(cfg, "block"))
        levels = _levels(neck, "neck")
    with _component(seed, "head", levels):
        head = build(cfg["head"], levels, num_classes)
    with _component(seed, "late_fusion"):
        late_fusion = build(cfg["late_fusion"])
    return Detector(backbone, neck, head, late_fusion, mean=mean, std=std)


def only_parts(state: Mapping[str, Tensor], parts: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a detector's state dict that belong to these of its children."""
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] in parts}


def _without_weights(node: Any) -> Any:
    """``node`` and what is inside it, naming no weights."""
    if not isinstance(node, Mapping):
        return node
    return {key: NO_WEIGHTS.get(key, _without_weights(value)) if TARGET in node else value for key, value in node.items()}


class DryRun(NamedTuple):
    """What is known of a detector before any data is read."""

    text: str
    """The neck's plan, its levels and the parameters of each part, for people."""
    picture: str | None
    """The neck's plan as SVG; none for a neck without a plan."""
    levels: tuple[LevelSpec, ...]
    """What the neck gives."""
    sizes: list[Size] | None
    """Height and width of each level's map for the largest picture; none if that could not be found out."""


def dry_run(cfg: Mapping[str, Any]) -> DryRun:
    """Build all parts without memory or weights and run them on the largest pictures: what does not fit fails before data is touched.

    ``cfg`` as for :func:`build_detector`; ``data.image_size`` and ``loader.batch_size`` tell what to run it on: a square, and a landscape
    unless the data source says that it has ``square_pictures`` only. Raises ``ConfigError``.
    """
    detector = build_on_meta(cfg)
    size = cfg.get("data", {}).get("image_size")
    shapes: tuple[Size, ...] = ()
    sizes, note = None, "data has no image_size"
    if isinstance(size, int):
        square = getattr(resolve(cfg["data"][TARGET]), "square_pictures", False)
        shapes = buckets_of(cfg["data"], size)[: 1 if square else 2]
        try:
            sizes = rehearse(detector, shapes, cfg.get("loader", {}).get("batch_size", 1))
        except CannotRehearseError as error:
            note = str(error)
    lines = [_level_table(detector.neck.levels, shapes, sizes)]  # type: ignore[arg-type]
    if sizes is None:
        lines.append(f"sizes were not checked beforehand: {note}")
    lines.append(", ".join(f"{part} {sum(p.numel() for p in getattr(detector, part).parameters()):,}" for part in PARTS) + " parameters")
    plan, picture = getattr(detector.neck, "plan", None), None
    if plan is not None:
        operator, block = _short_name(cfg, "fusion"), _short_name(cfg, "block")
        fuses = any(len(node.inputs) > 1 and not node.operator for node in plan.nodes)
        chosen = f"fuse: {operator}" if fuses else "no node of this neck joins maps by fusion=, which has no effect"
        lines[:0] = [f"neck:\n{plan.draw()}", f"{chosen}; block: {block}"]
        picture = plan.draw_svg(operator=operator, block=block)
    return DryRun("\n".join(lines), picture, detector.neck.levels, sizes)  # type: ignore[arg-type]


def describe_run(cfg: Mapping[str, Any], picture: Path | None) -> None:
    """Log what :func:`dry_run` finds, and write the neck's plan to the file ``picture`` if there is one."""
    found = dry_run(cfg)
    logger.info("%s", found.text)
    if picture is None:
        return
    if found.picture is None:
        raise ConfigError("this neck has no plan to draw", where=str(picture), mend="use --dry-run without a file")
    try:
        write_atomic(picture, found.picture.encode())
    except OSError as error:
        raise FusionDetError(
            f"cannot write: {error.strerror}", where=str(picture), mend="name a file in a folder that you may write to"
        ) from error
    logger.info("picture: %s", picture)


def build_on_meta(cfg: Mapping[str, Any], num_classes: int = 1) -> Detector:
    """The detector of ``cfg`` on the meta device, without memory; parts that look at values while being built are built in memory first."""
    try:
        with torch.device("meta"):
            return build_detector(cfg, num_classes, seed=0, load_pretrained=False)
    except CannotRehearseError:
        return build_detector(cfg, num_classes, seed=0, load_pretrained=False).to("meta")


def _level_table(levels: Sequence[LevelSpec], shapes: Sequence[Size], sizes: Sequence[Size] | None) -> str:
    head = f"level  stride  channels{'  map of {} x {} pictures'.format(*shapes[0]) if sizes else ''}"
    maps = [f"  {height} x {width}" for height, width in sizes] if sizes else [""] * len(levels)
    rows = [f"{level.name:<5}  {level.stride:>6}  {level.channels:>8}{text}" for level, text in zip(levels, maps, strict=True)]
    return "\n".join([head, *rows])


def _short_name(cfg: Mapping[str, Any], group: str) -> str:
    return str((cfg.get(group) or {TARGET: group})[TARGET]).rpartition(".")[2]


def _part(cfg: Mapping[str, Any], group: str) -> Any:
    """The factory of ``fusion`` or ``block``; asked for although there is none, it says so."""
    if cfg.get(group) is not None:
        return partial(build, cfg[group])

    def missing(*args: Any, **kwargs: Any) -> nn.Module:
        raise ConfigError(f"the neck needs one, but {group} is null", where=group, mend=f"choose {group}=OPTION; --help lists them")

    return missing


def _levels(part: Any, name: str) -> tuple[LevelSpec, ...]:
    """The levels that ``part`` says it gives, checked."""
    levels = getattr(part, "levels", None)
    if not isinstance(levels, list | tuple) or not all(isinstance(level, LevelSpec) for level in levels):
        raise ValueError(f"{type(part).__name__} has no levels: expected an attribute of LevelSpecs, got {levels!r}")
    wrong = [level for level in levels if not all(isinstance(n, int) and n > 0 for n in (level.channels, level.stride))]
    if wrong:
        raise ValueError(f"{type(part).__name__}: channels and strides of levels are positive whole numbers, got {wrong}")
    return check_levels(levels, owner=name)


def _per_channel(backbone: Any, name: str) -> Sequence[float]:
    """``mean`` or ``std`` of ``backbone``, checked."""
    values = getattr(backbone, name, None)
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise ValueError(f"{type(backbone).__name__}.{name}: expected 3 numbers from 0 to 255, one per channel of RGB, got {values!r}")
    return values


@contextmanager
def _component(seed: int, name: str, given: Sequence[LevelSpec] = ()) -> Iterator[None]:
    """Seed torch by (seed, component name), restore its state afterwards, and turn a part's refusal into a config error.

    ``given``: the levels that the part has to work with, to be named beside its refusal.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError) as error:
            if torch.get_default_device().type == "meta" and looks_at_values(error):
                raise CannotRehearseError(f"the {name} looks at values while it is built") from error
            levels = ", ".join(f"{level.name} /{level.stride} of {level.channels} channels" for level in given)
            mend = f"change {name}= or its keys" + (f"; the {PARTS[PARTS.index(name) - 1]} gives {levels}" if given else "")
            raise ConfigError(describe(error).removeprefix(f"{name}: "), where=name, mend=mend) from error
