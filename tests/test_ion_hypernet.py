"""The recipes ``ion_vgg16`` and ``hypernet_vgg16``: the papers' numbers, sums of parameters by hand, two steps, and other parts in them."""

from __future__ import annotations

import pytest
import torch

from fusion_det.build import build_detector, dry_run
from fusion_det.config.cli import load_settings
from fusion_det.config.instantiate import build
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.errors import ConfigError
from fusion_det.late_fusion.voting import Voting
from fusion_det.structures import ImageBatch, Targets

CLASSES = 20
VGG = 14_714_688  # torchvision.models.vgg16().features
NO_WEIGHTS = ["backbone.weights=null"]
WORDS = {"ion_vgg16": [*NO_WEIGHTS, "head.box_head.weights=null"], "hypernet_vgg16": NO_WEIGHTS}


def plain(*words):
    return load_settings(get_tool("train"), ["data.root=.", *words], default_config_dir()).plain()


def on_meta(cfg):
    with torch.device("meta"):
        return build_detector(cfg, CLASSES, seed=0, load_pretrained=False)


def count(part):
    return sum(p.numel() for p in part.parameters())


def conv(inputs, outputs, size=1):
    return inputs * outputs * size**2 + outputs


def test_ion_is_the_papers_network():
    model = on_meta(plain("experiment=ion_vgg16"))
    assert isinstance(model.late_fusion, Voting)
    assert [(level.channels, level.stride) for level in model.neck.levels] == [(256, 4), (512, 8), (512, 16)]
    assert (count(model.backbone), count(model.neck)) == (VGG, 0)
    head = model.head
    assert [level.stride for level in head.rpn.levels] == [16]
    assert count(head.rpn) == conv(512, 512, 3) + conv(512, 15) + conv(512, 60)
    roi = head.roi_fusion
    assert (roi.out_channels, roi.bins, roi.norm_dims) == (512, 7, (1, 2, 3))
    assert [scale.numel() for scale in roi.scales] == [256, 512, 512, 512]  # 1,792 channels together
    assert not any(scale.requires_grad for scale in roi.scales)
    assert count(roi.context) == conv(512, 512) + 2 * conv(4 * 512, 512)
    # The paper's 1x1 of 1,792 channels to 512, here one per input: three biases more.
    assert sum(count(p) for p in roi.projections) == conv(1792, 512) + 3 * 512
    assert count(head.box_head) == conv(512 * 7 * 7, 4096) + conv(4096, 4096)
    assert [m.p for m in head.box_head.modules() if isinstance(m, torch.nn.Dropout)] == [0.5, 0.5]
    assert count(head.class_logits) + count(head.box_deltas) == conv(4096, 21) + conv(4096, 84)
    assert head.rounds == 2
    (site,) = model.fusion_sites()
    assert (site.name, site.inputs) == ("roi/ion", ("P2", "P3", "P4", "context"))


def test_hypernet_is_the_papers_network():
    model = on_meta(plain("experiment=hypernet_vgg16"))
    assert [(level.channels, level.stride) for level in model.neck.levels] == [(126, 4)]
    assert count(model.backbone) == VGG
    assert count(model.neck) == 512 * 512 * 8**2 + sum(conv(width, 42, 5) for width in (64, 256, 512))
    head = model.head
    assert head.rpn.sp
    assert count(head.rpn) == conv(126, 4, 3) + conv(13 * 13 * 4, 256) + conv(256, 1) + conv(256, 4)
    assert count(head.box_head) == conv(126, 63, 3) + conv(13 * 13 * 63, 4096) + conv(4096, 4096)
    assert [m.p for m in head.box_head.modules() if isinstance(m, torch.nn.Dropout)] == [0.25, 0.25]
    assert count(head.class_logits) + count(head.box_deltas) == conv(4096, 21) + conv(4096, 84)
    assert (head.rpn.count, head.rpn.overlap) == ({True: 200, False: 100}, 0.7)


def batch(size, count=2):
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[size, size]] * count)
    images = ImageBatch(pixels, sizes, torch.ones(count, 2), sizes, tuple(range(count)))
    boxes = torch.tensor([[[10.0, 12.0, 50.0, 60.0], [0.0, 0.0, 0.0, 0.0]]] * count)
    valid = torch.tensor([[True, False], [False, False]])
    return images, Targets(boxes * valid[..., None], torch.zeros(count, 2, dtype=torch.int64), valid, torch.zeros_like(valid))


@pytest.mark.parametrize("recipe", WORDS)
def test_two_steps_and_a_prediction(recipe):
    """On small pictures and, for the memory of the test, with narrower linear layers; nothing else is changed."""
    cfg = plain(f"experiment={recipe}", *WORDS[recipe], "head.box_head.width=32")
    model = build_detector(cfg, CLASSES, seed=0).train()
    optimizer = build(cfg["optimizer"], model)
    schedule = build(cfg["schedule"] | {"warmup_fraction": 0.0}, optimizer, 100)
    images, targets = batch(64)
    torch.manual_seed(0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        losses = model.losses(images, targets)
        assert losses.keys() == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box"}
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["loss_box"] > 0
        sum(losses.values()).backward()
        learning = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
        torch.nn.utils.clip_grad_norm_(learning, cfg["trainer"]["clip_grad_norm"])
        optimizer.step()
        schedule.step()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad and "scales" not in name}
    stages = {"ion_vgg16": {0, 2, 5, 7}, "hypernet_vgg16": {0, 2}}[recipe]
    assert frozen == {f"backbone.features.{i}.{kind}" for i in stages for kind in ("weight", "bias")}
    assert {name for name, p in model.named_parameters() if torch.equal(p, before[name]) and "scales" not in name} == frozen
    model.head.score_threshold = 0.0
    found = model.eval().predict(images)
    assert 0 < found.boxes.shape[1] <= 100
    assert found.boxes.isfinite().all()


@pytest.mark.parametrize(
    "words",
    [
        ["neck=hypernet", "head=hypernet_small"],
        ["neck=bifpn", "head=hypernet_small", "roi_fusion=ion"],
        ["neck=hypernet", "head=faster_rcnn_small", "roi_fusion=context", "late_fusion=voting"],
        ["neck=hypernet", "head=hypernet_small", "head.rpn.sp=false", "roi_fusion=context", "roi_fusion.fusion=aff"],
        ["neck=ion", "head=hypernet_small"],
    ],
)
def test_necks_and_heads_combine_freely(words):
    assert dry_run(plain(*words, "neck.channels=64")).sizes is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["head=hypernet_small", "neck=none", "neck.widths=[32,64,64]", "block=none"], "rpn.pool: .* one width"),
        (
            ["head=hypernet_small", "head.rpn.pool.levels_used=[P2]"],
            r"pool.levels_used: expected names of .* P5, got \['P2'\]",
        ),
        (["head=hypernet_small", "head.rpn.negative_overlap=0.6"], "negative_overlap <= positive_overlap"),
        (
            ["head=faster_rcnn_small", "roi_fusion=ion", "neck=single", "roi_fusion.context=null"],
            "roi_fusion ion: joins two maps or more, got only P5; give it more levels or a context",
        ),
        (["experiment=hypernet_vgg16", "backbone.taps=[conv3_3,conv1_2]"], "strides of its taps must grow"),
        (["experiment=ion_vgg16", "head.rpn.levels_used=[P5]"], r"rpn.levels_used: expected names of the levels P2, P3, P4, got \['P5'\]"),
    ],
)
def test_levels_that_do_not_fit_are_one_line_before_any_data(words, message):
    with pytest.raises(ConfigError, match=message) as refused:
        dry_run(plain(*words))
    assert len(refused.value.lines) == 1


def test_a_checkpoint_needs_no_weight_file():
    cfg = plain("experiment=ion_vgg16")
    assert cfg["head"]["box_head"]["weights"] == "torchvision"
    on_meta(cfg)  # would look for the file
    assert cfg["head"]["box_head"]["weights"] == "torchvision"  # the settings stay as they were
