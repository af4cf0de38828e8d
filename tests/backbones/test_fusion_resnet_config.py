"""``backbone=fusion_resnet`` from the command line to a detector."""

from __future__ import annotations

import pytest
import torch

from fusion_det.build import build_detector, dry_run
from fusion_det.config.cli import load_settings, main
from fusion_det.config.instantiate import build
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.errors import CheckpointError, ConfigError
from fusion_det.fusion.add import Add
from fusion_det.fusion.aff import AFF
from fusion_det.fusion.iaff import IAFF
from fusion_det.structures import ImageBatch, Targets

SMALL_WORDS = [
    "backbone=fusion_resnet",
    "backbone.widths=[8,8,12,16]",
    "backbone.depths=[1,1,1,1]",
    "backbone.stem_width=8",
    "neck.channels=16",
]


def plain(*words):
    return load_settings(get_tool("train"), list(words), default_config_dir()).plain()


def test_backbone_and_neck_choose_their_operators_independently():
    cfg = plain(*SMALL_WORDS, "backbone.fusion=aff", "backbone.fusion.reduction=16", "neck=fpn", "fusion=iaff")
    assert (cfg["backbone"]["fusion"]["_target_"], cfg["fusion"]["_target_"]) == (
        "fusion_det.fusion.aff.AFF",
        "fusion_det.fusion.iaff.IAFF",
    )
    assert cfg["backbone"]["fusion"]["reduction"] == 16
    assert cfg["name"] == "scenes_fusion_resnet-aff_fpn_iaff_fcos_small"
    sites = build_detector(cfg, 2, seed=0).fusion_sites()
    assert [(s.name, type(s.operator)) for s in sites] == [
        *((f"backbone/C{level}.0", AFF) for level in (2, 3, 4, 5)),
        ("neck/M4", IAFF),
        ("neck/M3", IAFF),
    ]
    assert type(build(plain(*SMALL_WORDS)["backbone"]).layer1[0].join) is Add


def test_a_detector_with_it_trains_two_steps():
    cfg = plain(*SMALL_WORDS, "backbone.fusion=aff", "fusion=iaff")
    assert "backbone " in dry_run(cfg).text
    model = build_detector(cfg, 2, seed=0).channels_last().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sizes = torch.tensor([[96, 96]])
    images = ImageBatch(torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8), sizes, torch.ones(1, 2), sizes, (0,))
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 60.0]]])
    yes = torch.ones(1, 1, dtype=torch.bool)
    targets = Targets(boxes, torch.zeros(1, 1, dtype=torch.int64), yes, ~yes)
    losses = []
    for _ in range(3):
        total = torch.stack(list(model(images, targets).values())).sum()
        total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    assert losses[2] < losses[0]


def test_no_file_is_read_when_the_weights_come_from_elsewhere(tmp_path, monkeypatch):
    weight_file = tmp_path / "some, weights=.pth"
    torch.save({}, weight_file)
    cfg = plain(*SMALL_WORDS, f"backbone.weights={weight_file}")  # a path needs no quotes
    assert cfg["backbone"]["weights"] == str(weight_file)
    with pytest.raises(CheckpointError, match="do not fit"):
        build_detector(cfg, 2, seed=0)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("no file is to be read"))
    build_detector(cfg, 2, seed=0, load_pretrained=False)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["backbone.fusion=afff", "backbone.fusion.reduction=4"], "backbone.fusion: no such option 'afff' -> did you mean backbone.fus"),
        (["backbone.fusion=aff", "backbone.fusion.reducton=4"], "backbone.fusion.reducton: unknown key (got '4') -> did you mean backbone"),
        (["backbone.fusion=aff", "backbone.fusion.reduction=0"], "backbone.fusion.reduction: got 0, expected a whole number above 0"),
        (["backbone=tiny", "backbone.fusion=aff"], "backbone.fusion: unknown key (got 'aff') -> did you mean fusion?"),
        (["backbone.block=inceptoin"], "backbone.block: got 'inceptoin', expected one of basic, bottleneck, inception"),
        (["backbone.fusion=null"], "backbone.fusion: got null, expected a node with _target_"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line_and_exit_code_2(words, line, capsys):
    assert main("train", ["backbone=fusion_resnet", *words]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {line}")


def test_parts_that_cannot_be_built_name_the_backbone():
    with pytest.raises(ConfigError, match="backbone: FusionResNet: Stack gives 16 channels for 8") as refused:
        dry_run(plain(*SMALL_WORDS, "backbone.fusion=stack"))
    assert refused.value.exit_code == 2
