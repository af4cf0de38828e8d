"""Gates per input, and their shared parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fusion_det.fusion.cbam import CBAM
from fusion_det.fusion.eca import ECA, adaptive_kernel
from fusion_det.fusion.gates import RunningNorm, bottleneck_width, init_mirrored, make_pooled_norm
from fusion_det.fusion.mean import Mean
from fusion_det.fusion.se import SE
from fusion_det.fusion.sk import SK


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def maps(channels: int, number: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(batch, channels, 5, 3, generator=generator) for _ in range(number)]


def test_mirrored_rows_keep_half_of_the_units_alive_for_any_input():
    conv = nn.Conv2d(6, 4, 1)
    init_mirrored(conv)
    for x in torch.randn(50, 1, 6, 1, 1):
        assert ((conv(x) > 0).sum() == 2).item()


def test_bottlenecks_follow_the_reduction_down_to_the_minimum():
    assert [bottleneck_width(c, 16, 4) for c in (256, 64, 8)] == [16, 4, 4]
    assert [bottleneck_width(c, 16, 1) for c in (256, 32, 8)] == [16, 2, 1]
    assert SE(32, 2).gates[0].fc1.out_channels == CBAM(32, 2).gates[0].mlp[0].out_channels == 4
    assert SE(32, 2, minimum_width=1).gates[0].fc1.out_channels == CBAM(32, 2, minimum_width=1).gates[0].mlp[0].out_channels == 2


def test_running_norm_equals_batchnorm_in_evaluation():
    ours, theirs = RunningNorm(3), nn.BatchNorm2d(3)
    for parameter in (theirs.weight, theirs.bias, theirs.running_mean):
        nn.init.normal_(parameter)
    theirs.running_var.uniform_(0.5, 2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3, 1, 1)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_running_norm_by_hand_and_the_same_in_training_and_evaluation():
    norm, x = RunningNorm(1), torch.full((1, 1, 1, 1), 10.0)
    trained = norm(x)  # batch 1, which BatchNorm refuses
    assert norm.running_mean.item() == pytest.approx(1.0)  # 0 + 0.1 * 10
    assert norm.running_var.item() == pytest.approx(9.9)  # 0.9 * (1 + 0.1 * 10^2)
    assert trained.item() == pytest.approx((10 - 1) / (9.9 + norm.eps) ** 0.5)
    assert torch.equal(norm.eval()(x), trained)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(1)(x)


def test_running_norm_finds_mean_and_variance_from_single_values():
    norm = RunningNorm(1)
    norm.momentum = 0.01
    for value in 5 + 3 * torch.randn(4000, generator=torch.Generator().manual_seed(0)):
        norm(value.view(1, 1, 1, 1))
    assert norm.running_mean.item() == pytest.approx(5, abs=0.7)
    assert norm.running_var.item() == pytest.approx(9, rel=0.25)
    assert norm.num_batches_tracked == 4000


def test_running_norm_survives_two_passes_before_one_backward():
    norm, x = RunningNorm(2), torch.randn(3, 2, 1, 1, requires_grad=True)
    ((norm(x) + norm(2 * x)) * torch.randn(3, 2, 1, 1)).sum().backward()
    assert x.grad.abs().sum() > 0


def test_running_norm_passes_hardly_any_gradient_to_what_all_images_share():
    norm, x, weights = RunningNorm(2), torch.randn(5, 2, 1, 1, requires_grad=True), torch.randn(5, 2, 1, 1)
    (norm(x) * weights).sum().backward()
    expected = (weights - 31 / 32 * weights.mean(0)) / (norm.running_var + norm.eps).sqrt()[:, None, None]
    assert torch.allclose(x.grad, expected, atol=1e-5)
    one = torch.randn(1, 2, 1, 1, requires_grad=True)
    norm(one).sum().backward()
    assert one.grad.abs().min() > 0  # alone, an image has nothing to differ from, and keeps its gradient


def test_pooled_norms():
    assert isinstance(make_pooled_norm("none", 8, "running"), nn.Identity)
    assert make_pooled_norm("gn", 8, "running").num_groups == 1
    assert type(make_pooled_norm("bn", 8, "batch")) is nn.BatchNorm2d
    with pytest.raises(ValueError, match="norm: expected 'none', 'bn' or 'gn', got 'ln'"):
        make_pooled_norm("ln", 8, "running")


def test_se_is_torchvisions_gate_on_each_input_then_the_sum():
    operator, inputs = SE(32, 3), maps(32, 3)
    assert torch.allclose(operator(inputs), sum(gate(x) for gate, x in zip(operator.gates, inputs, strict=True)))
    weights = operator.probe()["weights"]
    assert weights.shape == (2, 3, 1, 1)
    assert ((weights > 0) & (weights < 1)).all()
    assert count(SE(256, 2, reduction=16)) == 2 * (2 * 256 * 16 + 16 + 256)


def test_se_gates_by_hand():
    operator, (x, y) = SE(4, 2), maps(4, 2)
    for gate, bias in zip(operator.gates, (0.0, 1.0), strict=True):
        nn.init.zeros_(gate.fc2.weight)
        nn.init.constant_(gate.fc2.bias, bias)
    assert torch.allclose(operator([x, y]), 0.5 * x + 0.7310586 * y)
    assert operator.probe()["weights"][0].flatten().tolist() == pytest.approx([0.5, 0.7310586])


def test_eca_kernel_formula():
    assert [adaptive_kernel(c) for c in (8, 64, 128, 256, 512)] == [3, 3, 5, 5, 5]
    assert count(ECA(256, 3)) == 3 * 5
    with pytest.raises(ValueError, match="odd kernel, got 4"):
        ECA(8, 2, kernel=4)


def test_eca_by_hand():
    operator = ECA(3, 2, kernel=3)
    for conv in operator.convs:
        conv.weight.data[:] = torch.tensor([1.0, 10.0, 100.0])
    x = torch.tensor([0.01, 0.02, 0.03]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    gates = torch.sigmoid(torch.tensor([0.1 + 2, 0.01 + 0.2 + 3, 0.02 + 0.3]))
    expected = 2 * x * gates.view(1, 3, 1, 1)
    assert torch.allclose(operator([x, x]), expected)


def test_cbam_has_the_published_size_and_the_authors_order():
    operator, inputs = CBAM(64, 2), maps(64, 2)
    assert count(operator.gates[0]) == 680
    assert operator.gates[0].spatial[1].momentum == 0.01
    operator.eval()
    expected = 0
    for gate, x in zip(operator.gates, inputs, strict=True):
        channel = torch.sigmoid(gate.mlp(x.mean((2, 3), keepdim=True)) + gate.mlp(x.flatten(2).max(2)[0][:, :, None, None]))
        x = channel * x
        both = torch.stack([x.max(1)[0], x.mean(1)], dim=1)
        expected = expected + x * torch.sigmoid(gate.spatial(both))
    assert torch.allclose(operator(inputs), expected, atol=1e-6)


def test_cbam_probe_is_the_product_of_its_two_gates():
    operator, (x, y) = CBAM(8, 2), maps(8, 2)
    assert operator.probe() == {}
    for gate in operator.gates:
        nn.init.zeros_(gate.mlp[2].weight)
        nn.init.zeros_(gate.spatial[1].weight)
    assert torch.allclose(operator([x, y]), 0.25 * (x + y))
    probe = operator.probe()
    assert probe["weights"].shape == (2, 2, 5, 3)
    assert (probe["weights"] == 0.25).all()
    assert (probe["channel"] == 0.5).all()


@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
def test_sk_is_the_mean_for_equal_logits_and_a_softmax_otherwise(norm):
    operator, inputs = SK(8, 3, norm=norm), maps(8, 3, batch=1)
    operator(inputs)
    assert torch.allclose(operator.probe()["weights"].sum(1), torch.ones(1, 1, 1))
    nn.init.zeros_(operator.select.weight)
    assert torch.allclose(operator(inputs), Mean(8, 3)(inputs), atol=1e-6)


def test_sk_by_hand_and_by_size():
    operator, inputs = SK(4, 2, minimum_width=2, norm="none"), maps(4, 2)
    pooled = (inputs[0] + inputs[1]).mean((2, 3))
    z = torch.relu(pooled @ operator.squeeze[0].weight[:, :, 0, 0].T)
    first, second = operator.select.weight[:, :, 0, 0].chunk(2)
    a = torch.sigmoid(z @ (first - second).T)[:, :, None, None]  # softmax of two
    assert torch.allclose(operator(inputs), a * inputs[0] + (1 - a) * inputs[1], atol=1e-6)
    assert count(SK(256, 2)) == 256 * 32 + 2 * 32 + 2 * 32 * 256


@pytest.mark.parametrize("operator", [CBAM, SK])
def test_batch_statistics_and_norms_can_be_chosen(operator):
    for norm in ("bn", "gn", "none"):
        assert torch.isfinite(operator(8, 2, norm=norm)(maps(8, 2, batch=1))).all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SK(8, 2, statistics="batch")(maps(8, 2, batch=1))
