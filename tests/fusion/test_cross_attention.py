"""Cross-attention against plain loops, its positions, and its token budget."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fusion_det.errors import ConfigError
from fusion_det.fusion.cross_attention import CrossAttention
from fusion_det.fusion.positions import sine_positions


def maps(number: int, batch: int = 2, height: int = 3, width: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(13)
    return [torch.randn(batch, 8, height, width, generator=generator) for _ in range(number)]


def slow(operator: CrossAttention, inputs: list[torch.Tensor]) -> torch.Tensor:
    """One image, one query, one head, one key at a time."""
    own, *others = inputs
    batch, channels, height, width = own.shape
    fused, size = own.clone(), channels // operator.heads
    places = [(row, column) for row in range(height) for column in range(width)]
    at = {place: sine_positions(height, width, channels, 1, own.device)[i] for i, place in enumerate(places)}
    for b in range(batch):
        for row, column in places:
            query = operator.query(operator.norms[0](own[b, :, row, column]) + at[row, column])
            found = torch.zeros(channels)
            for head in range(operator.heads):
                part = slice(head * size, (head + 1) * size)
                scores, values = [], []
                for norm, other in zip(operator.norms[1:], others, strict=True):
                    for place in places:
                        token = norm(other[b, :, place[0], place[1]])
                        scores.append(query[part] @ operator.key(token + at[place])[part] / math.sqrt(size))
                        values.append(operator.value(token)[part])
                found[part] = sum(w * v for w, v in zip(torch.stack(scores).softmax(0), values, strict=True))
            fused[b, :, row, column] += operator.out(found)
    return fused


@torch.no_grad()
def test_equals_plain_loops():
    torch.manual_seed(0)
    operator, inputs = CrossAttention(8, 3, heads=2), maps(3)
    for parameter in operator.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    assert torch.allclose(operator(inputs), slow(operator, inputs), atol=1e-5)


def test_positions_by_hand():
    at = sine_positions(2, 3, 4, 2, torch.device("cpu"))  # [6, 4]: sin x, cos x, sin y, cos y
    assert at.shape == (6, 4)
    last = [math.sin(5), math.cos(5), math.sin(3), math.cos(3)]  # column 2, row 1 of cells of 2: centres 5 and 3
    assert at[5].tolist() == pytest.approx(last, abs=1e-6)
    assert torch.equal(at[1, 2:], at[0, 2:])  # the second token is one to the right, in the same row


def test_pooled_keys_keep_the_query_resolution():
    inputs = maps(2, height=5, width=7)
    operator = CrossAttention(8, 2, pool=2, positions="none")
    pooled = F.avg_pool2d(inputs[1], 2, ceil_mode=True, count_include_pad=False)
    assert operator(inputs).shape == inputs[0].shape
    assert operator.remembered["key"].shape[2] == pooled.shape[2] * pooled.shape[3] == 12
    assert operator.remembered["query"].shape[2] == 35


def test_without_positions_the_order_of_the_others_positions_does_not_matter():
    own, other = maps(2)
    shuffled = other.flatten(2)[:, :, torch.randperm(12, generator=torch.Generator().manual_seed(1))].view_as(other)
    for positions, same in (("none", True), ("sine", False)):
        operator = CrossAttention(8, 2, positions=positions)
        assert torch.allclose(operator([own, other]), operator([own, shuffled]), atol=1e-6) is same


def test_probe_tells_which_input_was_attended_to():
    operator, (own, first, second) = CrossAttention(8, 3), maps(3)
    assert operator.probe() == {}
    operator([own, first, second])
    probe = operator.probe()
    assert torch.allclose(probe["attention"].sum(1), torch.ones(2, 1, 1))
    assert probe["found"].shape == (2, 1, 3, 4)
    torch.nn.init.zeros_(operator.norms[1].weight)
    with torch.no_grad():  # queries now look for the second input's constant part
        operator.norms[1].bias.fill_(0.0)
        operator.norms[2].bias.copy_(20 * operator.key.weight.T @ operator.query.bias.add_(1))
    operator([own, first, second])
    assert (operator.probe()["attention"][:, 1] > 0.8).all()


def test_budget_names_both_numbers_and_the_way_out():
    operator = CrossAttention(8, 2, max_tokens=11)
    with pytest.raises(ConfigError, match=r"3 x 4 = 12 positions, more than max_tokens=11.*raise fusion.max_tokens"):
        operator(maps(2))
    assert CrossAttention(8, 2, max_tokens=12)(maps(2)).shape == (2, 8, 3, 4)


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="8 channels cannot be split into 3 heads"):
        CrossAttention(8, 2, heads=3)
    with pytest.raises(ValueError, match="6 channels cannot be split into the 4 parts"):
        CrossAttention(6, 2, heads=2)
    assert CrossAttention(6, 2, heads=2, positions="none")([torch.ones(1, 6, 2, 2)] * 2).shape == (1, 6, 2, 2)


def test_stays_finite_and_close_in_bf16():
    operator, inputs = CrossAttention(8, 2), [100 * m for m in maps(2)]
    with torch.autocast("cpu", torch.bfloat16):
        low = operator([m.bfloat16() for m in inputs])
    assert torch.isfinite(low).all()
    assert torch.allclose(low.float(), operator(inputs), rtol=0.02, atol=2.0)
