"""HyperNet's proposal branch: its candidates, its two orders, what it learns, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from head_cases import make_features, make_head, make_targets
from head_cases import options as yaml_options
from torch.nn import functional as F
from torchvision.ops import roi_align as reference

from fusion_det.config.instantiate import build
from fusion_det.heads import light_proposals
from fusion_det.structures import LevelSpec

LEVEL = [LevelSpec("P2", 16, 4)]
WHOLE = torch.tensor([160.0, 128.0, 160.0, 128.0])[None, None]


def make_branch(levels=LEVEL, seed=3, pool=None, **changes):
    """The branch of ``configs/head/hypernet.yaml``; ``pool``: changes to its pooling."""
    node = yaml_options("head", "hypernet")["rpn"]
    assert changes.keys() <= node.keys()
    torch.manual_seed(seed)
    return build(node | {"pool": node["pool"] | (pool or {})} | changes, levels)


def one_map(batch=2, seed=0):
    return make_features(batch, seed, LEVEL, [(32, 40)])


def test_candidates_of_the_papers_picture_are_some_30_000():
    branch = make_branch()
    found = branch.candidates_of([torch.zeros(1, 16, 150, 250)])
    assert found.counts == (len(found.boxes),) == (38 * 63 * 12,) == (28_728,)
    first = found.boxes[:12]
    assert torch.allclose((first[:, :2] + first[:, 2:]) / 2, torch.tensor(8.0))
    sides = first[:, 2:] - first[:, :2]
    assert torch.allclose(sides.prod(dim=1).sqrt(), torch.tensor([32.0, 72, 160, 360]).repeat(3), rtol=1e-5)
    assert torch.allclose(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]).repeat_interleave(4), rtol=1e-5)
    assert torch.allclose(found.boxes[12] - found.boxes[0], torch.tensor([16.0, 0, 16, 0]), atol=1e-4)


def test_parameters_are_those_of_the_paper():
    branch = make_branch([LevelSpec("P2", 126, 4)])
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in branch.named_children()}
    assert counts["conv"] == 126 * 4 * 9 + 4
    assert counts["linear"] == 13 * 13 * 4 * 256 + 256
    assert counts["objectness"] + counts["deltas"] == 5 * (256 + 1)


@pytest.mark.parametrize("sp", [True, False])
def test_each_order_in_a_few_lines(sp):
    branch, (x,) = make_branch(sp=sp), one_map()
    boxes = torch.tensor([[[10.0, 20.0, 90.0, 71.0], [3.0, 4.0, 40.0, 120.0]]] * 2)
    rows = torch.cat([torch.arange(2.0).repeat_interleave(2)[:, None], boxes.flatten(0, 1)], dim=1)

    def convolved(y):
        return F.conv2d(y, branch.conv.weight, branch.conv.bias, padding=1).relu()

    def pooled(y):
        return reference(y, rows, 13, 1 / 4, 1, True)

    hidden = branch.linear((pooled(convolved(x)) if sp else convolved(pooled(x))).flatten(1)).relu()
    logits, deltas = branch(branch.prepare([x]), boxes)
    with torch.no_grad():
        assert torch.allclose(logits.flatten(), branch.objectness(hidden)[:, 0], atol=1e-5)
        assert torch.allclose(deltas.flatten(0, 1), branch.deltas(hidden), atol=1e-5)


def both_orders(x, boxes):
    """What the linear layer of each order reads, [K, 4, 13, 13], from the same parameters."""
    fast, slow = make_branch(sp=True), make_branch(sp=False)
    slow.load_state_dict(fast.state_dict())
    read = []
    for branch in (fast, slow):
        branch.linear.register_forward_pre_hook(lambda layer, args: read.append(args[0].detach().unflatten(1, (4, 13, 13))))
        branch(branch.prepare([x]), boxes)
    return read


def test_the_orders_agree_on_whole_pixels_but_for_the_edge():
    """Bins of one pixel: pooling copies. The slow order then sees zeros around the box, the fast one what is there."""
    (x,) = one_map(batch=1)
    corner = torch.tensor([[8.0, 16.0], [60.0, 40.0]])
    boxes = torch.cat([corner, corner + 13 * 4], dim=1)[None]
    fast, slow = both_orders(x, boxes)
    assert torch.allclose(fast[..., 1:-1, 1:-1], slow[..., 1:-1, 1:-1], atol=1e-5)
    assert (fast - slow).abs().amax() > 0.1
    alone = torch.zeros_like(x)
    alone[..., 4:17, 2:15] = x[..., 4:17, 2:15]  # nothing outside the first box
    fast, slow = both_orders(alone, boxes[:, :1])
    assert torch.allclose(fast, slow, atol=1e-5)
    fast, slow = both_orders(x, boxes + 2)  # half a pixel off: smoothed before or after
    assert (fast - slow)[..., 1:-1, 1:-1].abs().amax() > 0.1


def test_the_fast_order_does_not_pool_all_channels():
    """What a candidate costs: multiplications behind the map, and numbers pooled."""
    costs = {}
    for sp in (True, False):
        branch, widths = make_branch([LevelSpec("P2", 126, 4)], sp=sp), []
        branch.pool.register_forward_pre_hook(lambda pool, args, widths=widths: widths.append(args[0][0].shape[1]))
        convolved = []
        branch.conv.register_forward_hook(lambda conv, args, out, to=convolved: to.append(out.numel() * 9 * 126))
        maps = [torch.randn(1, 126, 16, 16)]
        for count in (10, 20):
            branch(branch.prepare(maps), torch.tensor([8.0, 8, 40, 40]).expand(1, count, 4))
        costs[sp] = widths[0], convolved
    assert costs[True][0] == 4
    assert costs[False][0] == 126
    assert costs[True][1][0] == costs[True][1][1] == 16 * 16 * 4 * 9 * 126  # once, however many candidates
    assert costs[False][1] == [n * 13 * 13 * 4 * 9 * 126 for n in (10, 20)]


@pytest.mark.parametrize("sp", [True, False])
def test_chunks_of_candidates_change_nothing(monkeypatch, sp):
    branch, maps = make_branch(sp=sp), one_map()
    whole = branch.find(maps, WHOLE)
    sizes = []
    branch.pool.register_forward_pre_hook(lambda pool, args: sizes.append(args[1].shape[1]))
    assert branch.same_for_all(branch.prepare(maps), torch.rand(3, 4) * 20)[0].shape == (2, 3)
    sizes.clear()
    monkeypatch.setattr(light_proposals, "CHUNK_NUMBERS", 2 * 13 * 13 * 4 * 100)
    found = branch.find(maps, WHOLE)
    assert max(sizes) == (100 if sp else 25)
    assert sum(sizes) == 8 * 10 * 12
    assert torch.allclose(found.boxes, whole.boxes, atol=1e-3)
    assert torch.equal(found.valid, whole.valid)


def test_proposals_are_the_best_ones_thinned_out():
    branch, maps = make_branch(count_test=30), one_map()
    with torch.no_grad():
        branch.objectness.weight.mul_(100)
    boxes, valid, _ = branch.find(maps, WHOLE)
    assert boxes.shape == (2, 30, 4)
    assert valid.all()
    assert not boxes.requires_grad
    candidates = branch.candidates_of(maps)
    logits, deltas = branch(branch.prepare(maps), candidates.boxes.expand(2, -1, -1))
    decoded = branch.coder.decode(deltas, candidates.boxes).clamp(min=0)
    best = torch.minimum(decoded, WHOLE)[torch.arange(2), logits.argmax(dim=1)]
    assert torch.allclose(boxes[:, 0], best, atol=1e-3)


def test_the_gradient_goes_through_what_is_taught_and_not_through_proposals():
    branch, maps = make_branch(), [x.requires_grad_() for x in one_map()]
    losses, proposals = branch.learn(maps, make_targets([4, 2]), WHOLE)
    assert losses.keys() == {"loss_rpn_cls", "loss_rpn_box"}
    assert not proposals.boxes.requires_grad
    assert proposals.boxes.shape == (2, 200, 4)
    sum(losses.values()).backward()
    assert maps[0].grad.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in branch.parameters())
    once, thrice = (make_branch(box_loss_weight=w) for w in (1.0, 3.0))
    torch.manual_seed(0)
    a, _ = once.learn(one_map(), make_targets([4, 2]), WHOLE)
    torch.manual_seed(0)
    b, _ = thrice.learn(one_map(), make_targets([4, 2]), WHOLE)
    assert torch.isclose(b["loss_rpn_box"], 3 * a["loss_rpn_box"])
    assert a["loss_rpn_box"] > 0


def test_several_levels_share_the_branch_and_a_candidate_takes_its_own():
    levels = [LevelSpec(f"P{i}", 16, 2**i) for i in (3, 4, 5)]
    features = make_features(2, 0, levels, [(16, 20), (8, 10), (4, 5)])
    branch = make_branch(levels, pool={"canonical_size": 64.0})
    used = branch.pool.assign(branch.candidates_of(features).boxes[None])
    assert set(used.unique().tolist()) == {0, 1, 2}
    proposals = branch.find(features, WHOLE)
    assert proposals.boxes.isfinite().all()


@pytest.mark.parametrize("sp", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_without_any_proposal_all_is_finite(training, sp):
    node = yaml_options("head", "hypernet_small")["rpn"]
    head = make_head("hypernet_small", LEVEL, 5, rpn=node | {"score_threshold": 1.0, "sp": sp, "sizes": [28.0]}, add_objects=False)
    if training:
        losses = head.losses(one_map(), make_targets([3, 1]))
        sum(losses.values()).backward()
        assert losses["loss_cls"] == losses["loss_box"] == 0
        assert all(p.grad.isfinite().all() for p in head.parameters())
    else:
        raw = head.eval().predict(one_map(), torch.tensor([[128, 160]] * 2))
        assert not raw.valid.any()
        assert raw.boxes.isfinite().all()


def test_numbers_that_are_none_come_out():
    for layer, named in (("rpn.objectness", "loss_rpn_cls"), ("rpn.deltas", "loss_rpn_box")):
        head = make_head("hypernet_small", LEVEL, 5)
        with torch.no_grad():
            head.get_submodule(layer).bias.fill_(torch.nan)
        assert head.losses(one_map(), make_targets([5, 2]))[named].isnan()
        raw = head.predict(one_map(), torch.tensor([[128, 160]] * 2))
        assert ((raw.scores.isnan() | raw.boxes.isnan().any(dim=2)) & raw.valid).any(), layer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [LevelSpec("P3", 8, 8), LevelSpec("P4", 12, 16)]}, r"rpn.pool: .* one width .* got P3 8, P4 12 channels"),
        ({"pool": {"levels_used": ["P9"]}}, r"pool.levels_used: expected names of the levels P2, got \['P9'\]"),
        ({"negative_overlap": 0.5}, "negative_overlap <= positive_overlap, got 0.5 > 0.45"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        make_branch(**changes)
    assert "\n" not in str(refused.value)
