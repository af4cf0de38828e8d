"""The recipe of MS-CNN on KITTI's cars: it composes, has the authors' layers, and takes two steps on small pictures."""

from __future__ import annotations

import torch
from head_cases import CONFIGS

from fusion_det.build import build_detector, dry_run
from fusion_det.config.cli import load_settings
from fusion_det.config.instantiate import build
from fusion_det.config.tools import get_tool
from fusion_det.structures import ImageBatch, LevelSpec, Targets

WORDS = ["experiment=mscnn_vgg16_kitti", "data.root=."]


def settings(*words):
    return load_settings(get_tool("train"), [*WORDS, *words], CONFIGS).plain()


def test_it_has_the_authors_layers():
    found = dry_run(settings())
    assert found.sizes == [(72, 240), (36, 120), (18, 60), (9, 30)]
    assert found.levels == tuple(LevelSpec(f"P{i}", 512, 2**i) for i in range(3, 7))
    with torch.device("meta"):
        detector = build_detector(settings(), 1, seed=0, load_pretrained=False)
    assert [tuple(t.size) for t in detector.head.rpn.templates] == [(s, s) for s in (60, 84, 120, 168, 240, 336, 480)]
    assert not detector.neck.entries["C3"].state_dict()  # the head's buffer is the only one
    conv = 512 * 512 * 9 + 512
    assert sum(p.numel() for p in detector.neck.parameters()) == conv  # conv6_1
    branches = 512 * (4 * 25 + 3 * 49) * 6 + 7 * 6
    assert sum(p.numel() for p in detector.head.rpn.parameters()) == conv + branches
    trained = [name for name, p in detector.backbone.named_parameters() if p.requires_grad]
    assert trained[0] == "features.10.weight"  # conv3_1
    assert len(trained) == 2 * 9


def test_two_steps():
    small = ["backbone.weights=null", "head.box_head.width=32", "head.samples=8", "head.rpn.count_train=40", "roi_fusion.conv_width=32"]
    cfg = settings("data.image_size=128", "data.short_side=null", *small)
    detector = build_detector(cfg, 1, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 128), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 128]] * 2)
    images = ImageBatch(pixels, sizes, torch.ones(2, 2), sizes, (1, 2))
    boxes = torch.tensor([[[8.0, 4.0, 70.0, 60.0], [60.0, 10.0, 126.0, 60.0]], [[0.0] * 4, [0.0] * 4]])
    valid = torch.tensor([[True, True], [False, False]])
    targets = Targets(boxes, torch.zeros(2, 2, dtype=torch.int64), valid, torch.zeros_like(valid))
    optimizer = build(cfg["optimizer"], detector)
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    for _ in range(2):
        losses = detector(images, targets)
        assert losses.keys() == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box"}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert all(loss.isfinite() for loss in losses.values())
    moved = {name for name, p in detector.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in detector.named_parameters() if p.requires_grad}
    assert detector.eval().predict(images).boxes.isfinite().all()
