"""Weights of torchvision's detectors into ours: ``init_from=torchvision:fcos_resnet50_fpn``."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import get_model_weights

from fusion_det.backbones.state_file import read_tensors
from fusion_det.build import PARTS, only_parts
from fusion_det.convert.class_rows import ClassRows, match_classes, take_rows
from fusion_det.convert.load_report import LoadReport
from fusion_det.convert.torchvision_models import MODELS, PREFIX, TorchvisionModel, split_source
from fusion_det.errors import CheckpointError, ConfigError
from fusion_det.hub_cache import cached_file
from fusion_det.necks.weight_maps import rename

logger = logging.getLogger(__name__)

CLASSIFIER = re.compile(r"head\.class_logits\b")
BOX_PARTS = ("box_deltas", "box_distances")
"""What a head calls its convolution to boxes, which has four channels per shape (anchor or point) of a cell."""
DEFAULT_EPS = 1e-5


def load_torchvision(
    model: nn.Module,
    source: str,
    *,
    parts: Sequence[str] = PARTS,
    class_names: Sequence[str] | None = None,
    where: str = "init_from",
) -> LoadReport:
    """Copy the weights that ``source`` names into the detector ``model``, and tell (also the log) what became of each tensor.

    ``source``: ``torchvision:MODEL`` is the published file in torch's cache, ``torchvision:MODEL:FILE`` a file of the same model, such
    as one's own training with torchvision. Nothing is downloaded. Whatever fits by name and shape is taken, so a detector with another
    neck or head starts from the parts it shares; ``parts`` names the children of the detector that take any. ``class_names`` choose
    the classes of the classifier, see ``class_rows.py``.
    ``ConfigError`` for an unknown model or absent file, ``CheckpointError`` for one that is damaged or of which nothing fits.
    """
    name, path = find_file(source, where=where)
    described, named = MODELS[name], f"{where}={source}"
    mend = f"give a state dict of torchvision.models.detection.{name}"
    found = read_tensors(path, named, mend)
    eps = described.norm_eps if path.name == described.file else DEFAULT_EPS
    try:
        report = load_state(model, name, found, parts=parts, class_names=class_names, norm_eps=eps)
    except ValueError as error:
        raise CheckpointError(str(error), where=named, mend=mend) from error
    logger.info("%s: %d tensors of %s", named, len(report.matched), path)
    for line in report.lines():
        logger.info("  %s", line)
    return report


def load_state(
    model: nn.Module,
    name: str,
    found: Mapping[str, Tensor],
    *,
    parts: Sequence[str] = PARTS,
    class_names: Sequence[str] | None = None,
    norm_eps: float = DEFAULT_EPS,
) -> LoadReport:
    """As :func:`load_torchvision`, from a state dict of torchvision's detector ``name``.

    ``norm_eps``: what its BatchNorms add to variances. ``ValueError`` for tensors that this detector does not have, and if nothing fits.
    """
    described = MODELS[name]
    renamed = only_parts(rename(found, described.rules), parts)
    categories = get_model_weights(name).DEFAULT.meta["categories"]
    state, report = _fit(renamed, model, described, norm_eps, parts=parts, class_names=class_names, categories=categories)
    if not report.matched:
        raise ValueError(f"none of the tensors of torchvision's {name} fits this model; the same one is {described.words}")
    model.load_state_dict(state, strict=False)
    if report.missing or report.unexpected:
        report.notes.append(f"the same detector as torchvision's is: experiment=null {described.words}")
    return report


def find_file(source: str, *, where: str) -> tuple[str, Path]:
    """Model and path that ``torchvision:MODEL`` or ``torchvision:MODEL:FILE`` mean."""
    name, file = split_source(source, where=where)
    if not file:
        fetch = f"torchvision.models.detection.{name}(weights='DEFAULT')"
        return name, cached_file(MODELS[name].file, where=where, fetch=fetch)
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(f"no such file {file!r}", where=where, mend=f"use {PREFIX}{name}:FILE with a state dict of that model")
    return name, path


def _fit(
    renamed: Mapping[str, Tensor],
    model: nn.Module,
    described: TorchvisionModel,
    eps: float,
    *,
    parts: Sequence[str],
    class_names: Sequence[str] | None,
    categories: Sequence[str],
) -> tuple[dict[str, Tensor], LoadReport]:
    """The tensors to load, and the report on all of them; ``renamed`` has our names."""
    own, report, state = only_parts(model.state_dict(), parts), LoadReport(), {}
    prefix = "backbone.net." if any(name.startswith("backbone.net.") for name in own) else "backbone."
    candidates = {prefix + name[9:] if name.startswith("backbone.") else name: value for name, value in renamed.items()}
    candidates |= _choose_classes(candidates, own, report, described, class_names, categories)
    for name, value in candidates.items():
        if name not in own:
            report.unexpected += [] if name.endswith("num_batches_tracked") else [name]
        elif value.shape != own[name].shape:
            report.reshaped.append(f"{name} {list(value.shape)} here {list(own[name].shape)}")
        else:
            state[name] = value
            report.matched.append(name)
    for name in own.keys() - candidates.keys():
        constant = next((value for pattern, value in described.constants if re.fullmatch(pattern, name)), None)
        if constant is not None:
            state[name] = torch.full_like(own[name], constant)
            report.constant.append(name)
        elif not name.endswith("num_batches_tracked"):
            report.missing.append(name)
    _keep_scale(state, model, eps, report)
    report.missing.sort()
    return state, report


def _choose_classes(
    candidates: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    report: LoadReport,
    described: TorchvisionModel,
    class_names: Sequence[str] | None,
    categories: Sequence[str],
) -> dict[str, Tensor]:
    """The tensors that have rows per class with our classes; those that cannot be chosen stay as they are and differ in shape."""
    chosen: dict[str, Tensor] = {}
    notes: set[str] = set()
    for name in filter(CLASSIFIER.match, candidates.keys() & own.keys()):
        found, boxes = candidates[name], _boxes_of(name, candidates)
        shapes = 1 if described.boxes_per_class else len(candidates[boxes]) // 4 if boxes else 0
        if not shapes or len(own[name]) % shapes or own[name].shape[1:] != found.shape[1:]:
            continue
        ours, theirs = len(own[name]) // shapes, len(found) // shapes
        rows = match_classes(ours, theirs, background=described.background, class_names=class_names, categories=categories)
        if rows is None:
            other = f"the file has {theirs - 1}, this model {ours - described.background}"
            notes.add(f"classes: {other}: the classifier keeps its initial weights")
            continue
        chosen[name] = take_rows(own[name], found, shapes, rows)
        notes.add(rows.note)
        if described.boxes_per_class and boxes in own:
            chosen |= _class_boxes(boxes, own[boxes], candidates[boxes], ours, rows)
    report.notes += sorted(notes)
    return chosen


def _boxes_of(name: str, candidates: Mapping[str, Tensor]) -> str:
    """The convolution or linear layer to boxes beside the classifier ``name``; nothing if there is none."""
    return next((boxes for part in BOX_PARTS if (boxes := name.replace("class_logits", part)) in candidates), "")


def _class_boxes(name: str, own: Tensor, found: Tensor, columns: int, rows: ClassRows) -> dict[str, Tensor]:
    """The four rows of each chosen class; nothing if ours has one box for all classes."""
    if len(own) != 4 * columns or own.shape[1:] != found.shape[1:]:
        return {}
    return {name: take_rows(own.unflatten(0, (-1, 4)), found.unflatten(0, (-1, 4)), 1, rows).flatten(0, 1)}


def _keep_scale(state: dict[str, Tensor], model: nn.Module, eps: float, report: LoadReport) -> None:
    """Let BatchNorm's weights make up for another epsilon: the same output whatever the variance, and a checkpoint keeps it."""
    count = 0
    for name, module in model.named_modules():
        weight, variance = state.get(f"{name}.weight"), state.get(f"{name}.running_var")
        if isinstance(module, _BatchNorm) and module.eps != eps and weight is not None and variance is not None:
            wide = variance.double()
            ratio = ((wide + module.eps) / (wide + eps)).sqrt()
            state[f"{name}.weight"] = (weight * ratio.where(wide + eps > 0, 1.0)).to(weight.dtype)
            count += 1
    if count:
        report.notes.append(f"{count} BatchNorms were trained with epsilon {eps:g}: their weights are scaled to give the same here")
