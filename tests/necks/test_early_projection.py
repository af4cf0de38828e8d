"""A concatenation's 1x1 convolution before maps are enlarged is the one after it."""

from __future__ import annotations

import pytest
import torch
from named_necks import SMALL, named_neck

CASES = [
    ("ion", {}),
    ("concat_fpn", {}),
    ("fpn", {"fusion": "concat", "resample__up": "bilinear"}),
    ("fpn", {"fusion": "concat", "fusion__bias": False}),
]


@pytest.mark.parametrize(("name", "keys"), CASES)
def test_same_maps_and_gradients(name, keys):
    torch.manual_seed(0)
    neck = named_neck(name, SMALL, channels=16, **keys).double()
    assert neck.early
    features = [torch.randn(2, s.channels, -(-67 // s.stride), -(-91 // s.stride), dtype=torch.float64) for s in SMALL]
    found = []
    for early in (neck.early, set()):
        neck.early = early
        leaves = [*(f.clone().requires_grad_() for f in features), *neck.parameters()]
        outputs = neck(leaves[: len(features)])
        gradients = torch.autograd.grad(sum((o.sin() * o).sum() for o in outputs), leaves)
        found.append([*outputs, *gradients])
    for early, late in zip(*found, strict=True):
        torch.testing.assert_close(early, late, atol=1e-10, rtol=1e-8)


def test_products_are_saved_only_where_maps_grow():
    assert not named_neck("fpn", SMALL, channels=16).early
    assert not named_neck("hypernet", SMALL, channels=15, fusion="concat").early  # its deconvolution is dense: it does not commute
    # a map of another width gets its own convolution before it is enlarged already
    assert not named_neck("fpn", SMALL, channels=16, fusion="concat", widths=[8, 16, 32]).early
