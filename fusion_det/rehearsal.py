"""A forward pass without memory or arithmetic: what the size of pictures and maps decides fails here, before any data is read."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fusion_det.detector import Detector
from fusion_det.errors import ConfigError, FusionDetError
from fusion_det.fusion.operator import FusionOperator
from fusion_det.structures import LevelSpec, Targets

Size = tuple[int, int]
"""Height and width."""

_META = re.compile(r"\bmeta\b|register_meta|unsupported scalarType", re.IGNORECASE)  # the last: torch.autocast("meta")
_ONE_VALUE = "Expected more than 1 value per channel"
_FARTHEST = 8
"""Largest stride of a neck's level, in picture sides; SSD's last level on small pictures has 8."""


class CannotRehearseError(Exception):
    """A part looks at values, which tensors on the meta device do not have; nothing is known against it."""


def rehearse(detector: Detector, shapes: Sequence[Size], batch_size: int) -> list[Size]:
    """Run ``detector``, built on the meta device, as training and evaluation will; the sizes of the neck's maps for ``shapes[0]``.

    ``shapes``: picture sizes, the largest first. Training: a full batch of the first, with the head's losses as far as they do not look at
    values. Evaluation: one picture of the last. ``ConfigError`` for whatever fails, with the module where it did, and for backbones and
    necks whose maps are not what their ``levels`` say; ``CannotRehearseError`` if a part needs values before there are any maps.
    """
    rehearsal = _Rehearsal(detector)
    with torch.no_grad(), torch.device("meta"):
        maps = rehearsal.features(batch_size, shapes[0], training=True)
        with suppress(CannotRehearseError), rehearsal.stage("head"):
            detector.head.losses(maps, _no_targets(batch_size))  # type: ignore[operator]
        last = rehearsal.features(1, shapes[-1], training=False)
        with suppress(CannotRehearseError), rehearsal.stage("head"):
            detector.head.predict(last, torch.tensor([shapes[-1]]))  # type: ignore[operator]
    return [(m.shape[-2], m.shape[-1]) for m in maps]


class _Rehearsal:
    """One detector under way; ``inside`` holds the paths of the modules that are being run, outermost first."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.inside = detector, list[str]()
        self.batch, self.shape = 1, (0, 0)
        for path, module in detector.named_modules():
            module.register_forward_pre_hook(self._enter(path))
            module.register_forward_hook(self._leave(path))

    def _enter(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            self.inside.append(path)

        return hook

    def _leave(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            _check_part(path, module, args, output)
            while self.inside.pop() != path:  # above it: modules whose error somebody caught
                pass

        return hook

    def features(self, batch: int, shape: Size, *, training: bool) -> list[Tensor]:
        """The neck's maps of ``batch`` pictures of ``shape``, checked."""
        self.batch, self.shape = batch, shape
        self.detector.train(training)
        backbone, neck = self.detector.backbone, self.detector.neck
        with self.stage("backbone"):
            maps = backbone(torch.empty(batch, 3, *shape))
        self._check("backbone", backbone.levels, maps)  # type: ignore[arg-type]
        with self.stage("neck"):
            maps = neck(maps)
        self._check("neck", neck.levels, maps, getattr(neck, "approximate", ()))  # type: ignore[arg-type]
        return list(maps)

    def _check(self, owner: str, levels: Sequence[LevelSpec], maps: Any, approximate: Sequence[str] = ()) -> None:
        """``approximate``: names of levels whose stride says no more than "about"."""
        names, pictures = [level.name for level in levels], "{} x {}".format(*self.shape)
        mend = f"make forward() and levels of this {owner} agree, or choose another one"
        if not isinstance(maps, list | tuple) or not all(isinstance(m, Tensor) and m.dim() == 4 for m in maps):
            raise ConfigError(f"expected a list of maps [B, C, H, W], got {type(maps).__name__}", where=owner, mend=mend)
        if len(maps) != len(levels):
            raise ConfigError(f"says it has the levels {names}, but gives {len(maps)} maps", where=owner, mend=mend)
        too_far = [f"{level.name} /{level.stride}" for level in levels if level.stride > _FARTHEST * max(self.shape)]
        if too_far:
            fault = f"has the levels {', '.join(too_far)}, whose strides are more than {_FARTHEST} times the {pictures} pictures"
            raise ConfigError(fault, where=owner, mend="fewer levels (neck.extra.count, neck.deeper.count) or a larger data.image_size")
        for level, found in zip(levels, maps, strict=True):
            wanted = (self.batch, level.channels, *(-(-side // level.stride) for side in self.shape))
            close = all(
                side // level.stride <= got <= -(-side // level.stride) for side, got in zip(self.shape, found.shape[2:], strict=True)
            )
            if found.shape[:2] != wanted[:2] or not (close or level.name in approximate):
                says = f"says {level.name} has {level.channels} channels at stride {level.stride}, which is {list(wanted)}"
                raise ConfigError(f"{says} for {pictures} pictures, but gives {list(found.shape)}", where=owner, mend=mend)

    @contextmanager
    def stage(self, owner: str) -> Iterator[None]:
        """Tell what fails inside as a fault of ``owner``."""
        self.inside.clear()
        try:
            yield
        except Exception as error:
            if looks_at_values(error):
                raise CannotRehearseError(f"the {owner} looks at values ({first_line(error)})") from error
            self._tell(owner, error)

    def _tell(self, owner: str, error: Exception) -> NoReturn:
        path = self.inside[-1] if self.inside else owner
        seen = f"batch size {self.batch}, pictures of {self.shape[0]} x {self.shape[1]}"
        if isinstance(error, FusionDetError):
            raise type(error)(f"{error.what} (in {path}; {seen})", where=error.where, mend=error.mend) from error
        if _ONE_VALUE in str(error):
            raise self._one_value(path, seen) from error
        mend = f"change {owner}= or its keys, or data.image_size"
        raise ConfigError(f"{describe(error)} (in {path}; {seen})", where=owner, mend=mend) from error

    def _one_value(self, path: str, seen: str) -> ConfigError:
        """The refusal of a normalisation over a single value."""
        kind, plan = type(self.detector.get_submodule(path)).__name__, getattr(self.detector.neck, "plan", None)
        strides = plan.strides if plan is not None else {}
        node = next((name for name in path.split(".") if name in strides), None)
        pooled = node is not None and strides[node] < max(self.shape)
        place = f" of {node} /{strides[node]}" if node is not None else ""
        what = f"{kind}{place} cannot normalise a {'pooled map' if pooled else 'map'} of 1 x 1: one value has no spread ({seen})"
        choices = ["loader.batch_size=2 or more"] if self.detector.training else []
        if not pooled:
            coarsest = max([level.stride for level in self.detector.neck.levels] + list(strides.values()))  # type: ignore[union-attr]
            choices += [f"data.image_size above {coarsest}", "fewer levels (neck.extra.count, neck.deeper.count)"]
        other = "another norm (running statistics, gn)" if pooled else "another norm"
        return ConfigError(what, where=path, mend=f"choose {', '.join(choices)} or {other}" if choices else f"choose {other}")


def _check_part(path: str, module: nn.Module, args: Any, output: Any) -> None:
    """Hold the parts of a :class:`fusion_det.necks.fusion_neck.FusionNeck`, and every operator, to what they have to give."""
    if isinstance(module, FusionOperator):
        batch, channels, *size = args[0][0].shape
        wanted, group = [batch, getattr(module, "out_channels", channels), *size], "fusion"
        given = f"{len(args[0])} maps of {list(args[0][0].shape)}"
    elif (part := re.fullmatch(r"neck\.(resamplers|blocks|entries)\.\w+", path)) and isinstance(output, Tensor) and output.dim() == 4:
        size = list(args[1]) if len(args) > 1 else list(args[0].shape[2:])
        wanted, group, given = [*output.shape[:2], *size], "neck" if part[1] != "blocks" else "block", f"a map of {list(args[0].shape)}"
    else:
        return
    if not isinstance(output, Tensor) or list(output.shape) != wanted:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        fault = f"{type(module).__name__} makes {got} of {given}, expected {wanted}"
        raise ConfigError(fault, where=group, mend=f"mend {type(module).__name__} or choose another")


def _no_targets(batch: int) -> Targets:
    """A batch without objects."""
    flags = torch.zeros(batch, 16, dtype=torch.bool)
    return Targets(torch.zeros(batch, 16, 4), torch.zeros(batch, 16, dtype=torch.int64), flags, flags)


def looks_at_values(error: Exception) -> bool:
    """Whether ``error`` comes of nothing but the meta device."""
    return isinstance(error, TypeError | RuntimeError) and _META.search(str(error)) is not None


def describe(error: Exception) -> str:
    """What a part raised, in one line; for errors that are no plain refusal (``ValueError``) with their kind and place."""
    file, place = _place(error)
    if type(error) is ValueError and Path(__file__).parent in file.parents:
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}{place}"


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _place(error: Exception) -> tuple[Path, str]:
    """The innermost line that lies outside torch and torchvision: its file, and `` (file.py:12)``."""
    theirs = {Path(torch.__file__).parents[1] / name for name in ("torch", "torchvision")}
    outside = [frame for frame in traceback.extract_tb(error.__traceback__) if not theirs & {*Path(frame.filename).parents}]
    return (Path(outside[-1].filename), f" ({outside[-1].filename}:{outside[-1].lineno})") if outside else (Path(__file__), "")
