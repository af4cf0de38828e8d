"""Global attention upsampling of PAN: against the formula, folded, and at batch 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.fusion.gau_pan import PanGAU


def maps(number: int, batch: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, 8, 5, 7, generator=generator) for _ in range(number)]


def shuffled(operator: nn.Module) -> nn.Module:
    """Weights and statistics that are nowhere neutral."""
    torch.manual_seed(1)
    for name, value in operator.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "running_var" in name else nn.init.normal_(value, std=0.3)
    return operator


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("gate", "own_relu", "last_relu"), [("sigmoid", True, False), ("relu", False, True)])
@pytest.mark.parametrize("training", [False, True])
def test_equals_its_formula(training, gate, own_relu, last_relu, bias):
    operator = shuffled(PanGAU(8, 2, gate=gate, own_relu=own_relu, last_relu=last_relu, bias=bias, statistics="batch")).train(training)
    (conv, norm, _), (_, point, pooled_norm, _) = operator.fold.pairs[0].own, operator.fold.pairs[0].context
    assert (conv.bias is not None) is (point.bias is not None) is bias

    def normalise(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
        return F.batch_norm(x, layer.running_mean.clone(), layer.running_var.clone(), layer.weight, layer.bias, training)

    x, y = maps(2)
    own = normalise(F.conv2d(x, conv.weight, conv.bias, padding=1), norm)
    factor = normalise(F.conv2d(y.mean((2, 3), keepdim=True), point.weight, point.bias), pooled_norm)
    expected = (own.relu() if own_relu else own) * (factor.relu() if gate == "relu" else factor.sigmoid()) + y
    expected = expected.relu() if last_relu else expected
    assert torch.allclose(operator([x, y]), expected, atol=1e-5)


def test_more_inputs_are_folded_and_the_probe_has_one_factor_each():
    three, (x, y, z) = shuffled(PanGAU(8, 3)).eval(), maps(3)
    first, second = PanGAU(8, 2).eval(), PanGAU(8, 2).eval()
    first.fold.pairs[0].load_state_dict(three.fold.pairs[0].state_dict())
    second.fold.pairs[0].load_state_dict(three.fold.pairs[1].state_dict())
    assert torch.equal(three([x, y, z]), second([first([x, y]), z]))
    weights = three.probe()["weights"]
    assert weights.shape == (3, 3, 1, 1)
    assert torch.equal(weights[:, 2], torch.ones(3, 1, 1))


@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
def test_batch_one_trains_every_parameter(norm):
    operator = PanGAU(8, 2, norm=norm)
    operator(maps(2, batch=1)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in operator.parameters())
    if norm == "bn":
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            PanGAU(8, 2, statistics="batch")(maps(2, batch=1))
