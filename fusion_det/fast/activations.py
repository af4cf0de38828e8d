"""ReLUs that the convolution before them computes on its way: a pass over the map less."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from fusion_det.fast.packing import PackedConv2d
from fusion_det.heads.tower import Tower


def fuse_relus(model: nn.Module) -> int:
    """Let ``model``'s packed convolutions (:func:`~fusion_det.fast.packing.pack_layers`) take over a ReLU right behind them; how many do.

    Where layers run in order: in ``nn.Sequential`` and in towers of heads. An ``nn.Identity`` takes the ReLU's place. What has hooks, or
    runs in a second place too, is left alone.
    """
    chains = [chain for chain in model.modules() if isinstance(chain, Tower) or type(chain).forward is nn.Sequential.forward]
    homes = [id(child) for parent in model.modules() for child in parent._modules.values()]
    count = 0
    for chain in chains:
        layers = [(name, layer) for name, layer in chain._modules.items() if layer is not None and type(layer) is not nn.Identity]
        for (_, conv), (name, relu) in pairwise(layers):
            if type(conv) is PackedConv2d and type(relu) is nn.ReLU and homes.count(id(conv)) == 1 and not (_hooked(conv) or _hooked(relu)):
                conv.relu = True
                chain._modules[name] = nn.Identity()
                count += 1
    return count


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
