"""MS-CAM, AFF, iAFF and the modulations: against the formulas written out, in the neutral case, and folded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fusion_det.fusion.aff import AFF
from fusion_det.fusion.gau import GAU
from fusion_det.fusion.iaff import IAFF
from fusion_det.fusion.ms_cam import MSCAM, MultiScaleAttention
from fusion_det.fusion.sa import SA

OPERATORS = [AFF, IAFF, GAU, SA, MSCAM]


class PlainAttention(nn.Module):
    """MS-CAM as the paper's Fig. 2 draws it, with the authors' names and torch's own BatchNorm."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()

        def layers() -> list[nn.Module]:
            first, last = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
            return [first, nn.BatchNorm2d(hidden), nn.ReLU(), last, nn.BatchNorm2d(channels)]

        self.local_att = nn.Sequential(*layers())
        self.global_att = nn.Sequential(nn.AdaptiveAvgPool2d(1), *layers())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.local_att(x) + self.global_att(x))


def plain(channels: int = 16, hidden: int = 4, seed: int = 5) -> PlainAttention:
    """A reference with weights, biases and running statistics that are nowhere neutral."""
    torch.manual_seed(seed)
    module = PlainAttention(channels, hidden)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "var" in name else nn.init.normal_(value, std=0.5)
    return module


def maps(number: int, batch: int = 2, channels: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(batch, channels, 5, 3, generator=generator) for _ in range(number)]


def attentions(operator: nn.Module) -> list[MultiScaleAttention]:
    return [m for m in operator.modules() if isinstance(m, MultiScaleAttention)]


def neutralise(operator: nn.Module) -> None:
    """Zero the last layer of each branch, so that every gate is exactly 1/2."""
    for attention in attentions(operator):
        for branch in (attention.local_att, attention.global_att):
            assert isinstance(branch[-2], nn.Conv2d)
            last = branch[-1] if isinstance(branch[-1], nn.BatchNorm2d | nn.GroupNorm) else branch[-2]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


def test_published_sizes():
    assert sum(p.numel() for p in AFF(64, 2, reduction=4).parameters()) == 4576
    assert sum(p.numel() for p in IAFF(64, 2, reduction=4).parameters()) == 2 * 4576
    assert sum(p.numel() for p in AFF(64, 4, reduction=4).parameters()) == 3 * 4576


@pytest.mark.parametrize("training", [False, True])
def test_the_authors_weights_give_the_authors_aff(training):
    reference, (x, y) = plain().train(training), maps(2)
    operator = AFF(16, 2, statistics="batch").train(training)
    operator.fold.pairs[0].attention.load_state_dict(reference.state_dict())
    w = reference(x + y)
    assert torch.allclose(operator([x, y]), 2 * x * w + 2 * y * (1 - w), atol=1e-5)


def test_running_statistics_change_nothing_in_evaluation():
    reference, (x, y) = plain().eval(), maps(2)
    operator = AFF(16, 2, factor_two=False).eval()
    operator.fold.pairs[0].attention.load_state_dict(reference.state_dict())
    w = reference(x + y)
    assert torch.allclose(operator([x, y]), x * w + y * (1 - w), atol=1e-5)


def test_iaff_by_formula_with_both_global_branches():
    first, second, (x, y) = plain().eval(), plain(seed=6).eval(), maps(2)
    operator = IAFF(16, 2).eval()
    pair = operator.fold.pairs[0]
    pair.first.load_state_dict(first.state_dict())
    pair.second.load_state_dict(second.state_dict())
    w1 = first(x + y)
    w2 = second(x * w1 + y * (1 - w1))
    assert torch.allclose(operator([x, y]), x * w2 + y * (1 - w2), atol=1e-5)
    shared = second.local_att(x * w1 + y * (1 - w1)) + first.global_att(x * w1 + y * (1 - w1))
    as_in_pytorch = x * torch.sigmoid(shared) + y * (1 - torch.sigmoid(shared))
    assert not torch.allclose(operator([x, y]), as_in_pytorch, atol=1e-3)
    pair.second.global_att.load_state_dict(first.global_att.state_dict())
    assert torch.allclose(operator([x, y]), as_in_pytorch, atol=1e-5)
    shorter = IAFF(16, 2, reuse_global=True).eval()
    kept = {name: value for name, value in operator.state_dict().items() if "second.global_att" not in name}
    shorter.load_state_dict(kept)
    assert torch.allclose(shorter([x, y]), as_in_pytorch, atol=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
def test_narrow_gates_are_as_wide_as_asked(operator):
    assert [a.local_att[0].out_channels for a in attentions(operator(8, 2, minimum_width=1))] == [2] * len(attentions(operator(8, 2)))
    assert {a.local_att[0].out_channels for a in attentions(operator(8, 2))} == {4}


def test_a_gate_without_its_global_branch_needs_another():
    attention = MultiScaleAttention(8, 2, "bn", "running", pooled=False)
    with pytest.raises(ValueError, match="built without a global branch, so forward"):
        attention(maps(1, channels=8)[0])


def test_ms_cam_and_modulations_by_formula():
    reference, (x, y) = plain().eval(), maps(2)
    operator = MSCAM(16, 2).eval()
    for attention in operator.attentions:
        attention.load_state_dict(reference.state_dict())
    assert torch.allclose(operator([x, y]), reference(x) * x + reference(y) * y, atol=1e-5)
    gau = GAU(16, 2).eval()
    gau.fold.pairs[0].attention.load_state_dict(reference.state_dict())
    assert torch.allclose(gau([x, y]), reference(y) * x + y, atol=1e-5)
    sa = SA(16, 2).eval()
    gate = sa.fold.pairs[0].attention(torch.cat([x, y], dim=1))
    assert torch.allclose(sa([x, y]), gate * x + y, atol=1e-6)


@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
def test_neutral_gates(norm):
    x, y = (m.double() for m in maps(2))
    for operator, expected in (
        (AFF(16, 2, norm=norm), x + y),
        (AFF(16, 2, norm=norm, factor_two=False), (x + y) / 2),
        (IAFF(16, 2, norm=norm), (x + y) / 2),
        (MSCAM(16, 2, norm=norm), (x + y) / 2),
        (GAU(16, 2, norm=norm), x / 2 + y),
        (SA(16, 2, norm=norm), x / 2 + y),
    ):
        neutralise(operator)
        assert torch.allclose(operator.double()([x, y]), expected, atol=1e-14)


def test_swapping_the_inputs_swaps_the_weights():
    x, y = maps(2)
    operator = AFF(16, 2).eval()
    swapped = operator([y, x])
    w = operator.fold.pairs[0].gate  # of x + y, the same in both orders
    assert torch.allclose(operator([x, y]) + swapped, 2 * (x + y), atol=1e-5)
    assert torch.allclose(swapped, 2 * (y * w + x * (1 - w)), atol=1e-5)


@pytest.mark.parametrize("operator", [AFF, IAFF, GAU, SA])
def test_more_inputs_fold_pair_by_pair(operator):
    x, y, z = maps(3)
    three = operator(16, 3).eval()
    assert three.probe() == {}
    first, second = operator(16, 2).eval(), operator(16, 2).eval()
    first.fold.pairs[0].load_state_dict(three.fold.pairs[0].state_dict())
    second.fold.pairs[0].load_state_dict(three.fold.pairs[1].state_dict())
    assert torch.equal(three([x, y, z]), second([first([x, y]), z]))


@pytest.mark.parametrize("operator", [AFF, IAFF, GAU, SA])
def test_the_probe_tells_the_factor_on_each_input(operator):
    """With maps that are equal over channels the weights must reproduce the output exactly."""
    three = operator(16, 3, norm="none").eval()
    for attention in attentions(three):
        attention.local_att[-2].weight.data[:] = attention.local_att[-2].weight[:1].clone()
        attention.global_att[-2].weight.data[:] = attention.global_att[-2].weight[:1].clone()
    inputs = [m[:, :1].expand(-1, 16, -1, -1) for m in maps(3)]
    fused = three(inputs)
    weights = three.probe()["weights"]
    assert weights.shape == (2, 3, 5, 3)
    rebuilt = sum(weights[:, i : i + 1] * m for i, m in enumerate(inputs))
    assert torch.allclose(fused, rebuilt, atol=1e-5)


@pytest.mark.parametrize("operator", [GAU, SA])
def test_global_context_has_one_gate_per_channel(operator):
    fused = operator(16, 2, context="global")
    fused(maps(2, batch=1))
    assert fused.probe()["weights"].shape == (1, 2, 1, 1)
    assert not any("local_att" in name for name in fused.state_dict())


@pytest.mark.parametrize("operator", OPERATORS)
def test_batch_one_trains_unless_the_papers_statistics_are_asked_for(operator):
    for norm in ("bn", "gn", "none"):
        assert torch.isfinite(operator(16, 2, norm=norm)(maps(2, batch=1))).all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        operator(16, 2, statistics="batch")(maps(2, batch=1))
