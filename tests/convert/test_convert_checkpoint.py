"""A torchvision file becomes a checkpoint that finds what torchvision finds, under COCO's names and ids."""

from __future__ import annotations

import pytest
import torch
from torchvision_cases import make_theirs, their_outputs

import fusion_det
from fusion_det.convert.checkpoint import save_converted
from fusion_det.errors import CheckpointError


def test_a_converted_detector_finds_what_torchvisions_finds(tmp_path):
    theirs = make_theirs("fcos_resnet50_fpn")
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    source = f"torchvision:fcos_resnet50_fpn:{tmp_path / 'theirs.pth'}"
    with pytest.raises(CheckpointError, match="other shape"):
        save_converted(source, tmp_path / "other.pt", overrides=["neck.channels=64"])
    assert not (tmp_path / "other.pt").exists()
    save_converted(source, tmp_path / "large.pt")
    large = fusion_det.load(tmp_path / "large.pt", device="cpu")
    assert (large.image_size, large.buckets[:2]) == (1344, ((800, 1344), (1344, 800)))
    save_converted(source, tmp_path / "ours.pt", image_size=128, overrides=["trainer.precision=fp32", "trainer.channels_last=false"])
    ours = fusion_det.load(tmp_path / "ours.pt", device="cpu")
    assert (ours.class_names[0], ours.category_ids[-1], len(ours.class_names), ours.image_size) == ("person", 90, 80, 128)
    picture = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = ours.predict(picture, score_threshold=0.2)
    mean, std = (torch.tensor(values)[:, None, None] for values in (theirs.transform.image_mean, theirs.transform.image_std))
    _, (expected,) = their_outputs(theirs, ((picture / 255 - mean) / std)[None])
    # Theirs also has classes without a name, which take places of the 100 and suppress nothing.
    pairs = {(label, round(score, 4)) for label, score in zip(expected["labels"].tolist(), expected["scores"].tolist(), strict=True)}
    mine = {(category, round(score, 4)) for category, score in zip(found[0].category_ids, found[0].scores.tolist(), strict=True)}
    named = {(label, score) for label, score in pairs if label in ours.category_ids}
    assert len(named) > 20
    assert len(named - mine) <= 2  # a score on the border of rounding
