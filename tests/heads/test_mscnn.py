"""MS-CNN against sums and loops by hand: the paper's layout, what its branches are taught, and the map that detection reads."""

from __future__ import annotations

import pytest
import torch
from head_cases import make_features, make_head, make_targets
from head_cases import options as yaml_options
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou
from torchvision.ops import roi_align as reference_roi_align

from fusion_det import boxes as box_module
from fusion_det.heads.template_losses import Branches, balanced, branch_losses, choose_negatives
from fusion_det.structures import LevelSpec, Targets

PICTURE, CLASSES = 128, 5
LEVELS = [LevelSpec(f"P{i}", 16, 2**i) for i in range(3, 7)]
SHAPES = [(PICTURE // level.stride,) * 2 for level in LEVELS]
VGG_LEVELS = [LevelSpec(f"P{i}", 512, 2**i) for i in range(3, 7)]
CAR_KERNELS = [[[5, 5], [7, 7]]] * 3 + [[[5, 5]]]
SIZES = torch.tensor([[PICTURE, PICTURE]] * 2)


def make(name="mscnn_small", levels=LEVELS, seed=3, **changes):
    """The head of a YAML; ``rpn__buffer=True`` changes a key of its part ``rpn``."""
    node = yaml_options("head", name)
    for key, value in changes.items():
        part, _, inner = key.rpartition("__")
        owner = node[part] if part else node
        assert inner in owner
        owner[inner] = value
    return make_head(name, levels, CLASSES, seed, **{key: node[key] for key in node if key != "_target_"})


def features_of(batch=2, seed=0):
    return make_features(batch, seed, LEVELS, SHAPES)


# The layout


def test_car_templates_are_the_authors():
    with torch.device("meta"):
        head = make("mscnn", VGG_LEVELS, rpn__kernels=CAR_KERNELS)
    assert [t.size for t in head.rpn.templates] == [(s, s) for s in (60, 84, 120, 168, 240, 336, 480)]
    assert head.rpn.weights == [0.9, 0.9, 1, 1, 1, 1, 1]
    pedestrians = [[[40, 60], [56, 84]], [[80, 120], [112, 168]], [[160, 240], [224, 336]], [[320, 480], [448, 672]]]
    with torch.device("meta"):
        head = make("mscnn", VGG_LEVELS, rpn__kernels=[[[3, 5], [5, 7]]], rpn__template_sizes=pedestrians)
    assert [tuple(branch.kernel_size) for branch in head.rpn.branches] == [(5, 3), (7, 5)] * 4  # torch: rows first
    assert head.rpn.templates[-1] == (3, (5, 7), (448, 672))


def test_parameters_are_those_of_the_prototxt():
    """Layers of the car model 7s-576-2x, width by width; the deconvolution's weights are not trained."""
    with torch.device("meta"):
        head = make("mscnn", VGG_LEVELS, rpn__kernels=CAR_KERNELS, rpn__buffer=True)
    outputs = CLASSES + 1 + 4
    buffer = 512 * 512 * 9 + 512
    five, seven = (512 * side * side * outputs + outputs for side in (5, 7))
    reduced = 1024 * 512 * 9 + 512
    linear = 512 * 5 * 5 * 4096 + 4096
    predictors = (4096 + 1) * (CLASSES + 1) + (4096 + 1) * 4 * (CLASSES + 1)
    assert sum(p.numel() for p in head.rpn.parameters()) == buffer + 4 * five + 3 * seven
    assert sum(p.numel() for p in head.parameters()) == buffer + 4 * five + 3 * seven + reduced + linear + predictors


def test_outputs_and_places():
    rpn = make().rpn
    logits, deltas, anchors = rpn(features_of())
    cells = [h * w for h, w in SHAPES for _ in range(2)]
    assert anchors.counts == tuple(cells)
    assert logits.shape == (2, sum(cells), CLASSES + 1)
    assert deltas.shape == (2, sum(cells), 4)
    starts = torch.tensor([0, *cells]).cumsum(0)
    assert torch.allclose(anchors.boxes[0], torch.tensor([-2.0, -2.0, 10.0, 10.0]))  # 12 pixels around (4, 4)
    assert torch.allclose(anchors.boxes[starts[3] + 1], torch.tensor([4.0, -12.0, 44.0, 28.0]))  # 40 around (24, 8)
    wanted = rpn.branches[3](features_of()[1])[0, :, 0, 1]
    assert torch.allclose(torch.cat([logits[0, starts[3] + 1], deltas[0, starts[3] + 1]]), wanted, atol=1e-6)


def test_levels_of_other_widths_and_a_buffer():
    levels = [LevelSpec("C3", 8, 8), LevelSpec("C4", 12, 16)]
    head = make(levels=levels, rpn__buffer=True)
    losses = head.losses(make_features(2, 0, levels, SHAPES[:2]), make_targets([4, 1]))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert [m.weight.shape[1] for m in head.rpn.branches] == [8, 8, 12, 12]
    assert head.rpn.buffer[0].weight.std().item() == pytest.approx(0.01, rel=0.1)


# Sampling


def a_batch(seed=0, places=200):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(4, places, generator=generator)
    positive = draw < torch.tensor([0.05, 0.0, 0.3, 0.02])[:, None]
    eligible = (draw > 0.4) & (draw < torch.tensor([1.0, 1.0, 0.5, 1.0])[:, None])
    return torch.rand(4, places, generator=generator), positive, eligible


@pytest.mark.parametrize("sampling", ["random", "bootstrapping", "mixture"])
@pytest.mark.parametrize(("ratio", "least"), [(3.0, 4), (2.0, 0), (0.5, 7)])
def test_numbers_of_negatives(sampling, ratio, least):
    losses, positive, eligible = a_batch()
    chosen = choose_negatives(losses, positive, eligible, sampling=sampling, per_positive=ratio, least=least)
    wanted = [min(int(e.sum()), max(least, int(ratio * int(p.sum())))) for p, e in zip(positive, eligible, strict=True)]
    assert chosen.sum(dim=1).tolist() == wanted
    assert not (chosen & ~eligible).any()


def test_bootstrapping_takes_the_hardest_and_needs_no_chance():
    losses, positive, eligible = a_batch()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    chosen = choose_negatives(losses, positive, eligible, sampling="bootstrapping", per_positive=3.0, least=4)
    assert torch.equal(state, torch.get_rng_state())
    for row in range(4):
        order = sorted((i for i in range(200) if eligible[row, i]), key=lambda i: -losses[row, i])
        assert set(chosen[row].nonzero()[:, 0].tolist()) == set(order[: int(chosen[row].sum())])


def test_mixture_is_half_hard_half_chance_and_follows_the_global_generator():
    losses, positive, eligible = a_batch()
    hard = choose_negatives(losses, positive, eligible, sampling="bootstrapping", per_positive=1.5, least=2)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(choose_negatives(losses, positive, eligible, sampling="mixture", per_positive=3.0, least=4))
        assert not (hard & ~found[-1]).any()
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    often = torch.zeros(200)
    for _ in range(60):
        often += choose_negatives(losses, positive, eligible, sampling="random", per_positive=3.0, least=4)[0]
    assert often[eligible[0]].min() > 0  # every negative has its turn


# Losses


def test_balance_does_not_depend_on_the_number_of_negatives():
    losses, positive = torch.tensor([[2.0, 4.0, 1.0, 1.0, 1.0, 1.0]]), torch.tensor([[True, True] + [False] * 4])
    for number in (1, 4):
        negative = torch.tensor([[False, False] + [True] * number + [False] * (4 - number)])
        assert balanced(losses, positive, negative, per_positive=3.0) == pytest.approx(3.0 / 4 + 1.0 * 3 / 4)
    none = torch.zeros_like(positive)
    assert balanced(losses, none, ~positive, per_positive=3.0) == 1.0
    assert balanced(losses, positive, none, per_positive=3.0) == 3.0 / 4
    assert balanced(losses, none, none, per_positive=3.0) == 0.0


def by_hand(rpn, logits, deltas, boxes, counts, targets):
    """The losses in loops, with the objects' assignment from torchvision's IoU."""
    entropy, shift = [], []
    start = 0
    best = [box_iou(b[v], boxes) for b, v in zip(targets.boxes, targets.valid, strict=True)]
    for count, weight in zip(counts, rpn.weights, strict=True):
        positives, negatives, moved = [], [], []
        for row, ious in enumerate(best):
            labels, objects = targets.labels[row][targets.valid[row]], targets.boxes[row][targets.valid[row]]
            mine, free = [], []
            for i in range(start, start + count):
                top, which = ious[:, i].max(dim=0) if len(ious) else (torch.tensor(0.0), 0)
                forced = [j for j in range(len(ious)) if int(ious[j].argmax()) == i and ious[j, i] > 0]
                which = forced[-1] if forced else which
                if forced or top >= 0.5:
                    mine.append(-logits[row, i].log_softmax(0)[labels[which] + 1])
                    wanted = rpn.coder.encode(objects[which], boxes[i])
                    moved.append(F.smooth_l1_loss(deltas[row, i], wanted))
                elif top < 0.2:
                    free.append(-logits[row, i].log_softmax(0)[0])
            number = max(rpn.least_negatives, int(rpn.negatives_per_positive * len(mine)))
            positives += mine
            negatives += sorted(free, reverse=True)[:number]
        start += count
        ratio = rpn.negatives_per_positive
        share = 1 / (1 + ratio) if positives else 0.0
        terms = (share * sum(positives) / max(1, len(positives)), (1 - share) * sum(negatives) / max(1, len(negatives)))
        entropy.append(weight * sum(terms))
        shift.append(weight * sum(moved) / max(1, len(moved)))
    return sum(entropy), rpn.box_loss_weight * sum(shift)


@pytest.mark.parametrize("counts", [[5, 2], [3, 0], [0, 0]])
def test_losses_equal_loops_by_hand(counts):
    rpn = make(rpn__box_loss_weight=0.7).rpn
    with torch.no_grad():
        for branch in rpn.branches:
            branch.weight.mul_(100)
    found = rpn(features_of())
    targets = make_targets(counts, picture=PICTURE, seed=4)
    losses = rpn.losses(*found, targets)
    entropy, shift = by_hand(rpn, found[0].detach(), found[1].detach(), found[2].boxes, found[2].counts, targets)
    assert losses["loss_rpn_cls"].item() == pytest.approx(float(entropy), rel=1e-5)
    assert losses["loss_rpn_box"].item() == pytest.approx(float(shift), rel=1e-5)
    assert (losses["loss_rpn_box"] > 0) == (sum(counts) > 0)


@pytest.mark.parametrize("sampling", ["random", "bootstrapping", "mixture"])
def test_gradients_in_double_precision(sampling):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 4, generator=generator, dtype=torch.double, requires_grad=True)
    deltas = torch.randn(2, 9, 4, generator=generator, dtype=torch.double, requires_grad=True)
    target = torch.randn(2, 9, 4, generator=generator, dtype=torch.double)
    labels = torch.tensor([[0, -1, -1, 2, -1, -1, -1, -1, 1], [-1] * 9])
    ignored = torch.zeros(2, 9, dtype=torch.bool)
    ignored[0, 1] = True
    branches = Branches((6, 3), (0.9, 1.0))

    def losses(logits, deltas):
        torch.manual_seed(0)
        keys = {"sampling": sampling, "per_positive": 2.0, "least": 2}
        return branch_losses(logits, deltas, labels, ignored, target, branches, **keys)

    assert torch.autograd.gradcheck(losses, (logits, deltas))
    sum(losses(logits, deltas)).backward()
    assert not logits.grad[0, 1].any()
    assert not deltas.grad[labels < 0].any()


def test_no_negative_inside_a_crowd():
    rpn = make().rpn
    targets = make_targets([4, 1], crowds=[(0, 3)], picture=PICTURE)
    targets.boxes[0, 3] = torch.tensor([0.0, 0.0, 90.0, 90.0])
    logits, deltas, anchors = rpn(features_of())
    logits = logits.detach().requires_grad_()
    rpn.losses(logits, deltas, anchors, targets)["loss_rpn_cls"].backward()
    taught = logits.grad[0].any(dim=1)
    objects = targets.boxes[0][targets.valid[0]]
    boxes = anchors.boxes[taught]
    background = boxes[box_iou(boxes, objects).amax(dim=1) < 0.2]
    low, high = background[:, :2].clamp(min=0), background[:, 2:].clamp(max=90)
    inside = (high - low).clamp(min=0).prod(dim=1) / (background[:, 2:] - background[:, :2]).prod(dim=1)
    assert len(background) > 20
    assert inside.max() <= 0.5


def test_the_first_stage_of_two_teaches_the_proposals_alone():
    head = make(detection_weight=0.0, rpn__sampling="random", rpn__box_loss_weight=0.05)
    losses = head.losses(features_of(), make_targets([5, 2]))
    sum(losses.values()).backward()
    assert losses["loss_cls"] == losses["loss_box"] == 0
    for name, p in head.named_parameters():
        assert p.grad is not None
        assert bool(p.grad.any()) == name.startswith("rpn."), name


# Detection


def test_the_enlarged_map_is_bilinear():
    head = make()
    x = features_of()[0]
    found = head.enlarge(x)
    assert found.shape == (2, 16, 32, 32)
    assert torch.allclose(found[..., 1:-1, 1:-1], F.interpolate(x, scale_factor=2.0, mode="bilinear")[..., 1:-1, 1:-1], atol=1e-6)
    assert not any("enlarge" in name for name, _ in head.named_parameters())
    assert torch.equal(make(enlarge="learned").enlarge(x), found)
    assert make(enlarge="none").enlarge(x) is x
    assert (head.pool.levels[0].stride, make(enlarge="none").pool.levels[0].stride) == (4, 8)


def test_the_box_and_its_surroundings_are_read_as_in_the_paper():
    """The detection sub-network in a few lines of torchvision: enlarge, pool twice, concatenate, 3x3, fully connected."""
    levels = [LevelSpec(f"P{i}", 4, 2**i) for i in range(3, 7)]
    box_head = yaml_options("head", "mscnn")["box_head"] | {"width": 32}
    head = make("mscnn", levels, box_head=box_head).eval()
    x = make_features(2, 0, levels, SHAPES)
    start = torch.rand(2, 6, 2) * 80
    boxes = torch.cat([start, start + 8 + torch.rand(2, 6, 2) * 40], dim=2)
    with torch.no_grad():
        logits, deltas, _ = head(x, boxes)
        middle, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
        pooled = []
        for scale in (1.0, 1.5):
            around = torch.cat([middle - scale * half, middle + scale * half], dim=2)
            pooled.append(reference_roi_align(head.enlarge(x[0]), list(around), 7, 1 / 4, 2, True))
        reduced = F.conv2d(torch.cat(pooled, dim=1), head.roi_fusion.conv.weight, head.roi_fusion.conv.bias).relu()
        assert reduced.shape == (12, 512, 5, 5)
        vectors = head.box_head.linears[0](reduced.flatten(1)).relu()
        assert torch.allclose(logits.flatten(0, 1), head.class_logits(vectors), atol=1e-5)
        assert torch.allclose(deltas.flatten(2).flatten(0, 1), head.box_deltas(vectors), atol=1e-5)


def test_near_background_comes_first(monkeypatch):
    lessons = {}
    targets = make_targets([3, 2], picture=PICTURE)
    for near in (0.1, 0.0):
        head = make(near_overlap=near, samples=24, rpn__overlap=1.0)
        choose = head._choose
        monkeypatch.setattr(head, "_choose", lambda *a, near=near, choose=choose: lessons.setdefault(near, choose(*a)))
        torch.manual_seed(0)
        head.losses(features_of(), targets)
    shares = {}
    for near, lesson in lessons.items():
        background = lesson.taught & (lesson.labels == 0)
        ious = [box_iou(b, o[v]).amax(dim=1) for b, o, v in zip(lesson.boxes, targets.boxes, targets.valid, strict=True)]
        shares[near] = (torch.stack(ious)[background] >= 0.1).float().mean()
        assert background.any(dim=1).all()
    assert shares[0.1] == 1.0  # there are plenty
    assert shares[0.0] < 0.9


@torch.no_grad()
def test_a_detection_knows_the_level_that_proposed_it():
    for level in range(4):
        head = make().eval()
        for branch in head.rpn.branches[2 * level : 2 * level + 2]:
            branch.bias[1] = 20.0
        raw = head.predict(features_of(), SIZES)
        proposals = head.rpn.find(features_of(), torch.full((2, 1, 4), float(PICTURE)))
        assert (proposals.levels[:, 0] == level).all()
        assert level in raw.levels.unique()
        width = (proposals.boxes[..., 2] - proposals.boxes[..., 0])[:, 0]
        assert (width <= LEVELS[level].stride * 2.5 + 1).all()


def test_suppression_is_joint_over_levels():
    """A template of one level suppresses another level's box."""
    head = make(rpn__overlap=0.3, rpn__count_test=600)
    limits = torch.full((2, 1, 4), float(PICTURE))
    found = head.rpn.find(features_of(), limits)
    for boxes, valid in zip(found.boxes, found.valid, strict=True):
        ious = box_iou(boxes[valid], boxes[valid]) - torch.eye(int(valid.sum()))
        assert ious.max() <= 0.3
    assert len(found.levels[found.valid].unique()) > 1


# Hard inputs


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that was computed."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_memory_is_bounded_with_five_thousand_objects_in_a_picture(monkeypatch):
    monkeypatch.setattr(box_module, "CHUNK_PAIRS", 2**18)
    head = make()
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(1, 5000, 2, generator=generator) * (PICTURE - 6)
    boxes = torch.cat([start, start + 1 + 4 * torch.rand(1, 5000, 2, generator=generator)], dim=2)
    flags = torch.ones(1, 5000, dtype=torch.bool)
    with Largest() as largest:
        losses = head.losses(features_of(batch=1), Targets(boxes, torch.zeros(1, 5000).long(), flags, ~flags))
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_box"] > 0
    assert largest.numbers < 2**20  # all 680 places with 5,000 objects are 3.4 million pairs


def test_numbers_that_are_none_come_out_of_both_stages():
    cases = [("rpn.branches.2", 0, "loss_rpn_cls"), ("rpn.branches.2", 1, "loss_rpn_cls"), ("rpn.branches.2", -1, "loss_rpn_box")]
    for layer, output, named in [*cases, ("class_logits", 0, "loss_cls"), ("box_deltas", 9, "loss_box")]:
        head = make()
        with torch.no_grad():
            head.get_submodule(layer).bias[output] = torch.nan
        assert head.losses(features_of(), make_targets([9, 2]))[named].isnan(), layer
        raw = head.predict(features_of(), SIZES)
        seen = raw.scores.isnan() | raw.boxes.isnan().any(dim=2)
        assert (seen & raw.valid).any(), (layer, output)


def test_without_any_proposal_all_is_finite():
    head = make(rpn__score_threshold=1.0, add_objects=False)
    losses = head.losses(features_of(), make_targets([3, 1]))
    sum(losses.values()).backward()
    assert losses["loss_cls"] == losses["loss_box"] == 0
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert not head.eval().predict(features_of(), SIZES).valid.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rpn__kernels": [[[3, 3]], [[5, 5]]]}, r"kernels for each of the 4 levels \['P3', .*\], or one list for all, got 2 lists"),
        ({"rpn__kernels": [[[4, 3]]]}, r"kernels have odd sides, .* got \[4, 3\] on P3"),
        ({"rpn__kernels": [[[3]]], "rpn__template_sizes": [[[9.0, 9.0]]]}, r"\[width, height\] of every kernel and template, got \[3\]"),
        ({"rpn__kernels": [[]]}, "as many template_sizes as kernels on P3, at least one"),
        ({"rpn__template_sizes": [[[20.0, 20.0]]]}, r"as many template_sizes as kernels on P3, .* got \[\[20.0, 20.0\]\] for"),
        ({"rpn__template_sizes": [[[20.0, 20.0]] * 2] * 3}, "expected template_sizes for each of the 4 levels"),
        ({"rpn__template_sizes": [[[90.0, 90.0]] * 2]}, "P4's largest is no larger than P3's"),
        ({"rpn__template_scale": 0.2}, r"template \[4.8\d*, 4.8\d*\] of P3 is smaller than its stride 8"),
        ({"rpn__level_weights": [1.0] * 5}, r"expected level_weights for at most the 4 levels \['P3', .*\], got 5"),
        ({"rpn__negative_overlap": 0.8}, "rpn: expected negative_overlap <= positive_overlap"),
        ({"negative_overlap": 0.6}, "head mscnn: expected negative_overlap <= positive_overlap"),
        ({"levels": [LevelSpec("P0", 16, 1)], "rpn__level_weights": [1.0]}, "expected an even one, got P0 /1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        make(**changes)
    assert "\n" not in str(refused.value)
