"""ASFF's fusion against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from fusion_det.fusion.mean import Mean
from fusion_det.fusion.spatial_softmax import SpatialSoftmax


def maps(number: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(batch, 4, 3, 5, generator=generator).double() for _ in range(number)]


@pytest.mark.parametrize("norm", ["bn", "none"])
def test_equals_plain_loops(norm):
    operator, inputs = SpatialSoftmax(4, 3, width=2, norm=norm).double().eval(), maps(3)
    fused = operator.requires_grad_(False)(inputs)
    eps = 1e-5 if norm == "bn" else 0  # BatchNorm as it starts: variance 1, mean 0
    head, bias = operator.weight_levels.weight[:, :, 0, 0], operator.weight_levels.bias
    for b in range(2):
        for row in range(3):
            for column in range(5):
                features = []
                for part, x in zip(operator.compress, inputs, strict=True):
                    for filter_, shift in zip(part[0].weight[:, :, 0, 0], part[0].bias if norm == "none" else (0, 0), strict=True):
                        value = (sum(filter_[c] * x[b, c, row, column] for c in range(4)) + shift) / math.sqrt(1 + eps)
                        features.append(float(value if value > 0 else 0.1 * value))
                logits = [sum(float(w) * f for w, f in zip(head[i], features, strict=True)) + float(bias[i]) for i in range(3)]
                total = sum(math.exp(logit) for logit in logits)
                for c in range(4):
                    expected = sum(math.exp(logit) / total * float(x[b, c, row, column]) for logit, x in zip(logits, inputs, strict=True))
                    assert float(fused[b, c, row, column]) == pytest.approx(expected, abs=1e-6)  # the softmax is float32


def test_zero_logits_give_the_mean():
    operator, inputs = SpatialSoftmax(4, 3).double(), maps(3)
    torch.nn.init.zeros_(operator.weight_levels.weight)
    torch.nn.init.zeros_(operator.weight_levels.bias)
    assert torch.allclose(operator(inputs), Mean(4, 3)(inputs), atol=1e-7)


def test_probe_holds_the_weights_of_each_position():
    operator, inputs = SpatialSoftmax(4, 2).double(), maps(2, batch=1)
    fused = operator(inputs)
    weights = operator.probe()["weights"]
    assert weights.shape == (1, 2, 3, 5)
    assert torch.allclose(weights.sum(1), torch.ones(1, 3, 5))
    assert torch.allclose(fused, weights[:, :1] * inputs[0] + weights[:, 1:] * inputs[1])


def test_a_strong_bias_picks_one_input():
    operator, inputs = SpatialSoftmax(4, 2).double(), maps(2)
    operator.weight_levels.bias.data[:] = torch.tensor([0.0, 100.0])
    assert torch.allclose(operator(inputs), inputs[1])
