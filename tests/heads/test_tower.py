"""Towers shared by levels of different statistics."""

import pytest
import torch
from torch import nn

from fusion_det.heads.tower import Tower

SCALES = (1.0, 30.0, 0.02)


def maps() -> list[torch.Tensor]:
    return [scale * torch.randn(8, 8, 16, 16) + scale for scale in SCALES]


def test_each_level_is_evaluated_with_its_own_statistics() -> None:
    """After training, evaluation normalises every level as training did; with one BatchNorm for all, only the last one comes near."""
    torch.manual_seed(0)
    tower = Tower(8, 2, "bn", len(SCALES))
    for _ in range(200):  # running variances start at 1, far from these
        for level, x in enumerate(maps()):
            tower(x, level)
    with torch.no_grad():
        for level, x in enumerate(maps()):
            evaluated, trained = tower.eval()(x, level), tower.train()(x, level)
            assert float((trained - evaluated).abs().mean() / trained.abs().mean()) < 0.1


@pytest.mark.parametrize(("norm", "norms"), [("none", 0), ("gn", 2), ("bn", 6)])
def test_convolutions_are_shared(norm: str, norms: int) -> None:
    tower = Tower(8, 2, norm, len(SCALES))  # type: ignore[arg-type]
    kinds = [type(module) for module in tower.modules()]
    assert kinds.count(nn.Conv2d) == 2
    assert kinds.count(nn.BatchNorm2d) + kinds.count(nn.GroupNorm) == norms
    assert next(key for key in tower.state_dict() if key.endswith("weight")) == "0.weight"
