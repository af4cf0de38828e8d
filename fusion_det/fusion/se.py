"""A squeeze-and-excitation gate per input."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from fusion_det.fusion.gates import bottleneck_width, by_input, gated_sum, init_mirrored, remembered_weights
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import init_conv


class SE(FusionOperator):
    """``y = sum_i s_i x_i``, ``s_i = sigmoid(W2 relu(W1 mean(x_i)))``: each input weighs its own channels, then they are added.

    Hu, Shen and Sun, CVPR 2018, arXiv 1709.01507, Eq. 2-4, with biases as in the authors' Caffe code; ``gates.i`` is torchvision's
    ``SqueezeExcitation``. Deviations: the paper gates the residual branch only, here every input has a gate of its own, so the sum at the
    start is about half of ``add``; at least ``minimum_width`` hidden channels (1 for the paper's width); mirrored initial weights
    (:func:`init_mirrored`).
    """

    def __init__(self, channels: int, num_inputs: int, *, reduction: PositiveInt = 16, minimum_width: PositiveInt = 4) -> None:
        super().__init__(channels, num_inputs)
        gates = [SqueezeExcitation(channels, bottleneck_width(channels, reduction, minimum_width)) for _ in range(num_inputs)]
        for gate in gates:
            init_mirrored(gate.fc1)
            init_conv(gate.fc2)
        self.gates = nn.ModuleList(gates)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        gates = [self._gate(part, x) for part, x in zip(self.gates, inputs, strict=True)]
        self.remember(**by_input(gates))
        return gated_sum(inputs, gates)

    def _gate(self, part: SqueezeExcitation, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 1, 1]; torchvision's public parts in its order, as the module itself returns the gated map only."""
        return part.scale_activation(part.fc2(part.activation(part.fc1(part.avgpool(x)))))

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, 1, 1]."""
        return remembered_weights(self.remembered)
