"""BatchNorm folded into the convolution before it: the same detections in float32 up to rounding, in less time. For prediction only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from fusion_det.backbones.residual import NarrowPointwise
from fusion_det.detector import Detector
from fusion_det.fast.replace import replace
from fusion_det.fusion.gates import RunningNorm
from fusion_det.fusion.operator import remembering
from fusion_det.layers import StridedConv2d, full_precision
from fusion_det.necks.blocks.rep_csp import RepConv
from fusion_det.structures import ImageBatch

Conv = nn.Conv2d | nn.ConvTranspose2d
Norm = nn.BatchNorm2d
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, StridedConv2d, NarrowPointwise, Conv2dSame)
NORMS = (nn.BatchNorm2d, RunningNorm, BatchNormAct2d)
"""Exactly these classes, whose ``forward`` is known: a subclass may do more. timm's norm has its activation inside, which stays."""


def fold_norms(detector: Detector, size: tuple[int, int]) -> list[str]:
    """Fold every BatchNorm of ``detector`` that :func:`fold_followers` finds, and re-parameterisable blocks; the names of what was folded.

    One picture of ``size`` (height, width) goes through it to see which those are: give a size that it was made for. The detector is
    changed for good and has fewer parameters: neither train it nor keep its weights. ``ValueError`` in training mode.
    """
    if detector.training:
        raise ValueError("fold_norms: expected a detector in evaluation mode, got one in training mode")
    branched = {name: module for name, module in detector.named_modules() if isinstance(module, RepConv) and module.folded is None}
    for module in branched.values():
        module.fold()
    noise = torch.randint(256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([size])
    images = ImageBatch(noise, sizes, torch.ones(1, 2), sizes, (0,)).to(detector.mean.device)
    maps: list[Tensor] = []
    handles = [part.register_forward_hook(lambda _module, _args, given: maps.extend(given)) for part in (detector.backbone, detector.neck)]

    def run() -> list[Tensor]:
        detector.predict_raw(images)
        return maps

    try:
        # What an operator keeps for fusion_probe counts as read, and so do maps between the parts, which level_ablation replaces.
        with remembering(detector), full_precision(detector.mean):
            return [*branched, *fold_followers(detector, run)]
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def fold_followers(model: nn.Module, run: Callable[[], object]) -> list[str]:
    """Fold each BatchNorm that only ever follows one convolution into it, in place; the names of those that are gone.

    ``run`` calls ``model`` once, without autocast, and gives back the maps that others may want to see (tensors in plain containers);
    every operation is watched. A BatchNorm is folded if it normalises with running statistics, all it was given are outputs of one
    convolution, and nobody else read any output of that convolution. All else stays as it is: a convolution that several BatchNorms
    share, maps read twice, BatchNorm in training mode or without affine parameters, weights that are computed (standardised,
    parametrised) or tied, modules with hooks, classes that are not listed here, and what ``run`` did not reach.
    """
    with _Watch(model) as watch:
        shown = run()
    for leaf in tree_leaves(shown):
        if isinstance(leaf, Tensor) and leaf in watch.alive:
            watch.alive[leaf].readers.append(None)
    names = {module: name for name, module in model.named_modules()}
    pairs = watch.pairs()
    for conv, norm in pairs:
        _fold(conv, norm)
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        replace(model, norm, rest)
    return [names[norm] for _, norm in pairs]


def _fold(conv: Conv, norm: Norm) -> None:
    """Give ``conv`` what ``norm`` does, computed in float64, and leave ``norm`` without effect."""
    old, bias = conv.weight, conv.bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    before = None if bias is None else bias.double()
    factor, offset = norm.weight.double(), norm.bias.double()
    weight, shift = fuse_conv_bn_weights(old.double(), before, mean, variance, norm.eps, factor, offset, transpose=conv.transposed)
    conv.weight = nn.Parameter(torch.empty_like(old).copy_(weight), old.requires_grad)  # keeps the memory format
    conv.bias = nn.Parameter(shift.to(old.dtype), old.requires_grad)
    # Somebody may hold it elsewhere than in a registered place, and call it still.
    norm.reset_running_stats()
    norm.weight.fill_((1 + norm.eps) ** 0.5)
    norm.bias.zero_()


class _Output(NamedTuple):
    """One output of a convolution."""

    conv: Conv
    readers: list[Norm | None]
    """Of each operation that read it; ``None``: something else than a foldable BatchNorm."""


class _Watch(TorchDispatchMode):
    """Sees every operation, below autograd and however it was called, and which module it belongs to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        users: dict[int, list[nn.Module]] = {}
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                users.setdefault(id(parameter), []).append(module)
        candidates = [module for module in model.modules() if _foldable(module)]
        untied = [module for module in candidates if all(users[id(p)] == [module] for p in module.parameters(recurse=False))]
        self.owners = {id(parameter): module for module in untied for parameter in module.parameters(recurse=False)}
        self.inside: list[nn.Module] = []
        """Candidates that are being called, the innermost last."""
        self.alive = WeakTensorKeyDictionary()
        """:class:`_Output` by tensor; one that is gone was read for the last time."""
        self.outputs: list[_Output] = []
        self.givers: dict[Norm, list[Conv | None]] = {}
        """Whose outputs each BatchNorm was given; ``None``: something else."""
        self.spoiled: set[nn.Module] = set()
        """Candidates whose parameters serve for something else as well."""
        self.handles: list[Any] = []

    def __enter__(self) -> Self:
        for module in dict.fromkeys(self.owners.values()):
            self.handles.append(module.register_forward_pre_hook(lambda module, _: self.inside.append(module)))
            self.handles.append(module.register_forward_hook(lambda *_: self.inside.pop() and None))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        module = self._module_of(func, tensors)
        self.spoiled |= {self.owners[id(tensor)] for tensor in tensors if id(tensor) in self.owners} - {module}
        for position, tensor in enumerate(tensors):
            if (output := self.alive.get(tensor)) is not None:
                output.readers.append(module if isinstance(module, Norm) and position == 0 else None)
        if isinstance(module, Norm):
            given = self.alive.get(tensors[0])
            self.givers.setdefault(module, []).append(given.conv if given else None)
        result = func(*args, **(kwargs or {}))
        if isinstance(module, Conv):
            self.outputs.append(_Output(module, []))
            self.alive[result] = self.outputs[-1]
        return result

    def _module_of(self, func: Any, tensors: list[Tensor]) -> nn.Module | None:
        """The candidate whose own operation this is: convolution or normalisation of the first tensor with its weight and bias."""
        module = self.inside[-1] if self.inside else None
        name = "batch_norm" if isinstance(module, Norm) else "aten.convolution."
        if module is None or name not in str(func):
            return None
        own = [parameter for parameter in (module.weight, module.bias) if isinstance(parameter, Tensor)]
        return module if [id(tensor) for tensor in tensors[1 : 1 + len(own)]] == [id(parameter) for parameter in own] else None

    def pairs(self) -> list[tuple[Conv, Norm]]:
        """Convolutions, each with the BatchNorm to be folded into it."""
        readers: dict[nn.Module, list[list[Norm | None]]] = {}
        for output in self.outputs:
            readers.setdefault(output.conv, []).append(output.readers)
        found = []
        for norm, givers in self.givers.items():
            conv = givers[0]
            if conv is None or {conv, norm} & self.spoiled or any(giver is not conv for giver in givers):
                continue
            if all(given == [norm] for given in readers[conv]):
                found.append((conv, norm))
        return found


def _foldable(module: nn.Module) -> bool:
    """Whether it is a convolution or BatchNorm to be folded, if it is used like that."""
    if module._forward_hooks or module._forward_pre_hooks:  # somebody looks at what goes through
        return False
    if type(module) in NORMS:
        assert isinstance(module, Norm)
        return not module.training and module.affine and module.running_mean is not None and module.running_var is not None
    # The weights of a transposed convolution in groups are not ordered by output channels.
    return type(module) in CONVOLUTIONS and not (isinstance(module, nn.ConvTranspose2d) and module.groups > 1)
