"""What a detector costs before anything is timed: parameters, MACs, FLOPs and activations of its backbone, neck and head."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from fusion_det.analysis.operations import Operations, Uncounted, counting
from fusion_det.build import PARTS, build_detector, build_on_meta
from fusion_det.errors import ConfigError
from fusion_det.rehearsal import Size, describe, looks_at_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusion_det.detector import Detector

CONVENTION = "1 MAC = 2 FLOP; one picture forward, from normalised pixels to candidates; biases and late fusion are not counted"


class PartCost(NamedTuple):
    """One part of a detector, or all of it."""

    parameters: int
    trainable: int
    """Parameters that learn; the others are frozen."""
    macs: int
    activations: int
    """Elements of the outputs of convolutions and linear layers."""

    @property
    def flops(self) -> int:
        return 2 * self.macs

    def as_dict(self) -> dict[str, int]:
        """Plain, with ``flops``."""
        return {**self._asdict(), "flops": self.flops}


@dataclass(frozen=True)
class Cost:
    """The cost of one picture of ``size``; see :data:`CONVENTION`."""

    size: Size
    """Height and width of the network's input."""
    parts: dict[str, PartCost]
    """``backbone``, ``neck``, ``head``."""
    uncounted: dict[str, Uncounted]
    """Operations that compute outside the count, by name, with their calls and the numbers they put out; the largest first."""
    proposals: int | None
    """Regions that a two-stage head was counted at; none for other heads."""

    @property
    def total(self) -> PartCost:
        return PartCost(*(sum(values) for values in zip(*self.parts.values(), strict=True)))

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for files."""
        return {
            "convention": CONVENTION,
            "height": self.size[0],
            "width": self.size[1],
            "parts": {name: part.as_dict() for name, part in self.parts.items()},
            "total": self.total.as_dict(),
            "proposals": self.proposals,
            "uncounted": {name: found._asdict() for name, found in self.uncounted.items()},
        }


def cost_of(cfg: Mapping[str, Any], num_classes: int, size: Size) -> Cost:
    """The cost of the detector that ``cfg`` (as for :func:`fusion_det.build.build_detector`) describes, without memory or weights.

    Parts that look at values, which tensors without memory do not have, are run in memory instead. Raises ``ConfigError`` if the parts do
    not fit each other or the size of the picture.
    """
    try:
        return _count(build_on_meta(cfg, num_classes), size)
    except (TypeError, RuntimeError) as error:
        if not looks_at_values(error):
            raise
    return _count(build_detector(cfg, num_classes, seed=0, load_pretrained=False), size)


def _count(detector: Detector, size: Size) -> Cost:
    """:func:`count_cost`, with what the parts raise told as an error of the config."""
    try:
        return count_cost(detector, size)
    except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AssertionError) as error:
        if detector.mean.is_meta and looks_at_values(error):
            raise
        what = f"{describe(error)} (pictures of {size[0]} x {size[1]})"
        raise ConfigError(what, where="image_size", mend="change the size of the pictures or the model") from error


def parameters_of(cfg: Mapping[str, Any], num_classes: int) -> dict[str, int]:
    """Only the parameters of each part, without running anything."""
    detector = build_on_meta(cfg, num_classes)
    return {name: sum(p.numel() for p in getattr(detector, name).parameters()) for name in PARTS}


def count_cost(detector: Detector, size: Size) -> Cost:
    """The cost of ``detector``, wherever its weights are (``meta`` is the quickest), as it predicts: one picture of ``size``.

    A two-stage head is counted at the number of proposals that it makes of such a picture in prediction, padding included.
    """
    proposals = _Proposals(detector.head)
    ran: dict[str, Operations] = {}
    device = detector.mean.device
    with torch.no_grad(), _evaluating(detector), proposals, torch.device(device):
        maps: Any = torch.zeros(1, 3, *size)
        for name in ("backbone", "neck"):
            with counting() as ran[name]:
                maps = getattr(detector, name)(maps)
        with counting() as ran["head"]:
            detector.head.predict(maps, torch.tensor([size]))  # type: ignore[operator]
    parts = {name: _part_cost(getattr(detector, name), ran[name]) for name in PARTS}
    return Cost(tuple(size), parts, _together(ran), proposals.number)  # type: ignore[arg-type]


def _part_cost(module: nn.Module, ran: Operations) -> PartCost:
    parameters = list(module.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return PartCost(sum(p.numel() for p in parameters), trainable, ran.flops // 2, ran.activations)


def _together(ran: Mapping[str, Operations]) -> dict[str, Uncounted]:
    """The uncounted operations of all parts, the largest first."""
    found = Operations()
    for operations in ran.values():
        for name, (calls, elements) in operations.uncounted.items():
            before = found.uncounted.get(name, Uncounted(0, 0))
            found.uncounted[name] = Uncounted(before.calls + calls, before.elements + elements)
    return dict(sorted(found.uncounted.items(), key=lambda item: (-item[1].elements, item[0])))


class _Proposals:
    """Watches how many regions go through ``head.box_head``, if the head has one."""

    def __init__(self, head: nn.Module) -> None:
        self.number: int | None = None
        self.box_head = getattr(head, "box_head", None)

    def __enter__(self) -> None:
        if isinstance(self.box_head, nn.Module):
            self.handle = self.box_head.register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, args: Any) -> None:
        self.number = len(args[0])

    def __exit__(self, *error: object) -> None:
        if isinstance(self.box_head, nn.Module):
            self.handle.remove()


@contextmanager
def _evaluating(detector: Detector) -> Iterator[None]:
    """The detector in evaluation mode, and back."""
    training = detector.training
    detector.eval()
    try:
        yield
    finally:
        detector.train(training)
