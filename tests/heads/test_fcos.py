"""FCOS against torchvision's, its assignment against a brute-force twin, and the awkward batches."""

from __future__ import annotations

import head_cases
import pytest
import torch
from torchvision.models.detection import fcos as reference
from torchvision.models.detection.image_list import ImageList

from fusion_det import boxes as box_module
from fusion_det.heads.fcos import FCOS, centerness_targets
from fusion_det.heads.fcos_assigner import assign_points
from fusion_det.heads.points import grid_points
from fusion_det.structures import LevelSpec, Targets

LEVELS = [LevelSpec("P3", 32, 8), LevelSpec("P4", 32, 16), LevelSpec("P5", 32, 32)]
SHAPES = [(12, 16), (6, 8), (3, 4)]
OPTIONS = {
    "num_convs": 2,
    "norm": "gn",
    "point_offset": 0.5,
    "range_factor": 8.0,
    "center_radius": 1.5,
    "distance": "exp",
    "box_weight": "centerness",
    "focal_alpha": 0.25,
    "focal_gamma": 2.0,
    "prior_probability": 0.01,
    "score_threshold": 0.05,
    "candidates_per_level": 50,
}


def make_head(classes=5, **options):
    torch.manual_seed(3)
    return FCOS(LEVELS, classes, **(OPTIONS | options))


def make_features(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 32, *shape, generator=generator) for shape in SHAPES]


def make_targets(counts, crowds=(), seed=0, padded=7):
    """Random boxes on a 128 x 96 picture; image i has ``counts[i]`` objects, those in ``crowds`` (image, slot) are crowd regions."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(len(counts), padded, 2, generator=generator) * torch.tensor([90.0, 60.0])
    extent = 4 + torch.rand(len(counts), padded, 2, generator=generator) * 90
    boxes = torch.cat([start, torch.minimum(start + extent, torch.tensor([128.0, 96.0]))], dim=2)
    present = torch.arange(padded) < torch.tensor(counts)[:, None]
    crowd = torch.zeros_like(present)
    for image, slot in crowds:
        crowd[image, slot] = True
    labels = torch.randint(0, 5, present.shape, generator=generator)
    return Targets(boxes * present[..., None], labels * present, present & ~crowd, crowd)


def brute_force(points, strides, low, high, targets, radius):
    """The paper's words, one point and one object at a time."""
    labels = torch.full((len(targets.labels), len(points)), -1)
    for b in range(len(labels)):
        for p, (x, y) in enumerate(points.tolist()):
            best = float("inf")
            for g in range(targets.labels.shape[1]):
                x0, y0, x1, y1 = targets.boxes[b, g].tolist()
                sides = (x - x0, y - y0, x1 - x, y1 - y)
                near = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) < radius * strides[p] or radius == 0
                fits = targets.valid[b, g] and min(sides) > 0 and low[p] < max(sides) < high[p] and near
                if fits and (x1 - x0) * (y1 - y0) < best:
                    best, labels[b, p] = (x1 - x0) * (y1 - y0), targets.labels[b, g]
    return labels


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_assignment_equals_brute_force(radius):
    head = make_head()
    points, strides, low, high = head._points(make_features())
    targets = make_targets([5, 0, 7], crowds=[(0, 1)], seed=11)
    found = assign_points(points, strides, low, high, targets, center_radius=radius)
    assert torch.equal(found.labels, brute_force(points, strides, low, high, targets, radius))
    assert (found.labels >= 0).sum() > 20


def test_chunks_change_nothing(monkeypatch):
    head = make_head()
    arguments = (*head._points(make_features()), make_targets([5, 3], crowds=[(0, 1)]))
    whole = assign_points(*arguments, center_radius=1.5)
    monkeypatch.setattr(box_module, "CHUNK_PAIRS", 175)
    assert all(torch.equal(a, b) for a, b in zip(whole, assign_points(*arguments, center_radius=1.5), strict=True))


def test_assigned_boxes_are_the_objects_and_crowds_are_ignored():
    head = make_head()
    points, strides, low, high = head._points(make_features())
    targets = make_targets([2, 2], crowds=[(1, 0), (1, 1)])
    found = assign_points(points, strides, low, high, targets, center_radius=1.5)
    assert not found.ignored[0].any()
    assert (found.labels[1] == -1).all()
    boxes = targets.boxes[1, :2, None]
    in_crowd = ((points > boxes[..., :2]) & (points < boxes[..., 2:])).all(-1).any(0)
    assert torch.equal(found.ignored[1], in_crowd)
    assert found.ignored[1].any()
    for b, p in (found.labels >= 0).nonzero().tolist():
        assert (found.boxes[b, p] == targets.boxes[b]).all(-1).any()


def test_centerness_of_known_points():
    points = torch.tensor([[5.0, 5.0], [2.0, 5.0]])
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0]] * 2])
    expected = torch.tensor([[1.0, (2 / 8) ** 0.5]])
    assert torch.allclose(centerness_targets(points, boxes, torch.ones(1, 2, dtype=torch.bool)), expected)


def copy_to_torchvision(ours: FCOS, num_convs: int = 2) -> reference.FCOSHead:
    theirs = reference.FCOSHead(32, 1, 5, num_convs=num_convs)
    theirs.classification_head.conv.load_state_dict(ours.class_tower.state_dict())
    theirs.classification_head.cls_logits.load_state_dict(ours.class_logits.state_dict())
    theirs.regression_head.conv.load_state_dict(ours.box_tower.state_dict())
    theirs.regression_head.bbox_reg.load_state_dict(ours.box_distances.state_dict())
    theirs.regression_head.bbox_ctrness.load_state_dict(ours.centerness.state_dict())
    return theirs


@pytest.mark.parametrize("counts", [[4, 0], [7, 1], [0, 0]])
def test_losses_and_outputs_equal_torchvision(counts):
    ours = make_head(distance="relu", box_weight="uniform", point_offset=0.0)
    torch.nn.init.normal_(ours.box_distances.weight, std=0.05)
    torch.nn.init.constant_(ours.box_distances.bias, 1.0)
    theirs = copy_to_torchvision(ours)
    features = make_features()
    outputs = theirs(features)
    logits, distances, centerness = ours(features)
    assert torch.allclose(logits, outputs["cls_logits"], atol=1e-6)
    assert torch.allclose(distances, outputs["bbox_regression"], atol=1e-6)
    assert torch.allclose(centerness, outputs["bbox_ctrness"][..., 0], atol=1e-6)

    from torchvision.models.detection.anchor_utils import AnchorGenerator

    model = reference.FCOS.__new__(reference.FCOS)
    torch.nn.Module.__init__(model)
    model.head, model.center_sampling_radius = theirs, 1.5
    generator = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    anchors = generator(ImageList(torch.zeros(2, 3, 96, 128), [(96, 128)] * 2), features)
    targets = make_targets(counts)
    per_image = [{"boxes": targets.boxes[i][targets.valid[i]], "labels": targets.labels[i][targets.valid[i]]} for i in range(2)]
    expected = model.compute_loss(per_image, outputs, anchors, [h * w for h, w in SHAPES])
    found = ours.losses(features, targets)
    for mine, name in (("loss_cls", "classification"), ("loss_box", "bbox_regression"), ("loss_centerness", "bbox_ctrness")):
        assert torch.allclose(found[mine], expected[name], rtol=1e-4, atol=1e-6), (mine, found[mine], expected[name])


@torch.no_grad()
def test_final_boxes_and_losses_of_twenty_random_batches_equal_torchvision():
    torchvisions = {"distance": "relu", "box_weight": "uniform", "point_offset": 0.0, "score_threshold": 0.2}
    levels = [level._replace(channels=32) for level in head_cases.LEVELS]  # torchvision has 32 groups
    ours = head_cases.make_head("fcos", levels, **torchvisions).eval()
    generator = torch.Generator().manual_seed(6)
    for conv, std in ((ours.class_logits, 0.3), (ours.box_distances, 0.1), (ours.centerness, 0.2)):
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) * std)
    ours.box_distances.bias.fill_(2.0)
    theirs = reference.FCOS(head_cases.Stub(), 5, head=copy_to_torchvision(ours, num_convs=4), score_thresh=0.2, nms_thresh=0.6).eval()
    counts, found = [h * w for h, w in head_cases.SHAPES], []
    for seed, objects in head_cases.random_batches():
        features, targets = head_cases.make_features(seed=seed, levels=levels), head_cases.make_targets(objects, seed=seed)
        outputs = theirs.head(features)
        anchors = theirs.anchor_generator(head_cases.image_list(2), features)
        losses, expected = ours.losses(features, targets), theirs.compute_loss(head_cases.as_torchvision(targets), outputs, anchors, counts)
        for mine, name in (("loss_cls", "classification"), ("loss_box", "bbox_regression"), ("loss_centerness", "bbox_ctrness")):
            assert torch.allclose(losses[mine], expected[name], rtol=1e-4, atol=1e-6), (seed, mine, losses[mine], expected[name])
        split = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        detections = theirs.postprocess_detections(split, [list(a.split(counts)) for a in anchors], [(128, 128)] * 2)
        raw = ours.predict(features, torch.tensor([[128, 128]] * 2))
        final = head_cases.suppress(raw, iou_threshold=0.6, max_detections=100)
        found.append(head_cases.assert_same_detections(final, detections))
    assert min(found) > 50


@pytest.mark.parametrize("counts", [[0, 0], [3, 0]])
@pytest.mark.parametrize("norm", ["none", "bn", "gn"])
def test_losses_are_finite_and_touch_every_parameter(counts, norm):
    head = make_head(norm=norm)
    losses = head.losses(make_features(), make_targets(counts))
    assert set(losses) == {"loss_cls", "loss_box", "loss_centerness"}
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_one_pixel_and_huge_boxes_stay_finite_in_bf16():
    targets = make_targets([2])
    targets.boxes[0, 0] = torch.tensor([20.0, 20.0, 21.0, 21.0])
    targets.boxes[0, 1] = torch.tensor([0.0, 0.0, 128.0, 96.0])
    head = make_head(box_weight="uniform")
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.losses(make_features(1), targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_predictions_are_clipped_ranked_and_know_their_level():
    head = make_head(score_threshold=0.0)
    sizes = torch.tensor([[96, 128], [50, 70]])
    raw = head.predict(make_features(), sizes)
    assert raw.boxes.shape == (2, 150, 4)
    assert raw.valid.all()
    for i, (height, width) in enumerate(sizes.tolist()):
        assert raw.boxes[i].min() >= 0
        assert raw.boxes[i, :, 2].max() <= width
        assert raw.boxes[i, :, 3].max() <= height
    assert torch.equal(raw.levels[0], torch.repeat_interleave(torch.arange(3), 50))
    logits, _, centerness = head(make_features())
    scores = (logits.sigmoid() * centerness.sigmoid()[..., None]).sqrt()
    assert torch.isclose(raw.scores[1, :50].max(), scores[1, : 12 * 16].max())
    assert not head.predict(make_features(), sizes).valid.logical_xor(raw.scores > 0).any()


def test_levels_of_unequal_width_are_refused():
    with pytest.raises(ValueError, match="one width"):
        FCOS([LevelSpec("P3", 8, 8), LevelSpec("P4", 16, 16)], 3, **OPTIONS)


def test_points_are_cell_centres_row_by_row():
    points, level = grid_points([(1, 2), (1, 1)], [8, 16], torch.device("cpu"))
    assert points.tolist() == [[4.0, 4.0], [12.0, 4.0], [8.0, 8.0]]
    assert level.tolist() == [0, 0, 1]


def test_measured_points_are_as_far_apart_as_the_picture_is_long():
    shapes = [(20, 28), (10, 14), (5, 7), (3, 4), (2, 2)]  # 160 x 224 pixels
    points, level = grid_points(shapes, [8, 16, 32, 64, 128], torch.device("cpu"), offset=0.0, cell_stride="measured")
    assert points[level == 3].max(dim=0).values.tolist() == [3 * (224 // 4), 2 * (160 // 3)]
    assert points[level == 4].tolist() == [[0, 0], [112, 0], [0, 80], [112, 80]]
    nominal, _ = grid_points(shapes, [8, 16, 32, 64, 128], torch.device("cpu"), offset=0.0)
    assert torch.equal(points[level < 3], nominal[level < 3])
