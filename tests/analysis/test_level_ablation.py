"""Levels replaced one by one: a head whose levels do known things, and a whole detector of our own."""

from __future__ import annotations

import json

import pytest
import torch
from probe_cases import PooledPixels, make_images
from tiny_checkpoint import tiny_state
from torch import nn

from fusion_det.analysis.level_ablation import level_ablation
from fusion_det.analysis.level_reliance import CAVEAT, Variant
from fusion_det.data.buckets import make_buckets
from fusion_det.data.coco_index import read_index
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import eval_loader
from fusion_det.detector import Detector
from fusion_det.engine.checkpoint import save_checkpoint
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.evaluator import collect_predictions
from fusion_det.inference import LoadedDetector, load
from fusion_det.late_fusion.nms import NMS
from fusion_det.structures import LevelSpec, RawDetections

LEVELS = tuple(LevelSpec(f"P{3 + i}", 3, 8 * 2**i) for i in range(3))
BOXES = torch.tensor([[0.0, 0, 20, 20], [20.0, 0, 70, 50], [0.0, 0, 96, 64]])
"""One for each level, far enough from each other for suppression; the areas are small, medium and medium."""


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class OneBoxPerLevel(nn.Module):
    """Level i finds its own box, unless its map is the same everywhere."""

    levels = LEVELS

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def predict(self, features, sizes) -> RawDetections:
        self.seen.append([map_.clone() for map_ in features])
        alive = torch.tensor([bool((map_.amax(dim=(2, 3)) > map_.amin(dim=(2, 3))).any()) for map_ in features])
        count = len(sizes)
        levels = torch.arange(3).repeat(count, 1)
        scores = torch.where(alive, 0.9, 0.0).repeat(count, 1)
        return RawDetections(BOXES.repeat(count, 1, 1), scores, torch.zeros_like(levels), levels, scores > 0)


class Scaled(nn.Module):
    """A neck that doubles what the backbone gives, so that the two parts can be told apart."""

    levels = LEVELS

    def forward(self, maps):
        return [2 * map_ for map_ in maps]


def stub() -> LoadedDetector:
    backbone = PooledPixels()
    backbone.levels = tuple(LevelSpec(f"C{3 + i}", 3, 8 * 2**i) for i in range(3))
    suppression = NMS(iou_threshold=0.9, max_detections=50, class_agnostic=False)
    model = Detector(backbone, Scaled(), OneBoxPerLevel(), suppression, mean=[50.0] * 3, std=[64.0] * 3)
    detector = object.__new__(LoadedDetector)
    detector.__dict__ |= {
        "model": model.train(), "device": torch.device("cpu"), "precision": "fp32", "category_ids": (5,), "level_names": ("P3", "P4", "P5"),
    }  # fmt: skip
    return detector


def truth(images: int = 2) -> dict:
    boxes = [[x, y, u - x, v - y] for x, y, u, v in BOXES.tolist()]
    return {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": 5, "name": "thing"}],
        "annotations": [
            {"id": 3 * i + k + 1, "image_id": i, "category_id": 5, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i in range(images)
            for k, box in enumerate(boxes)
        ],
    }


class TestByHand:
    @pytest.mark.parametrize("part", ["neck", "backbone"])
    def test_a_dropped_level_loses_its_boxes(self, part):
        reliance = level_ablation(stub(), [(make_images((64, 96), (64, 96)), None)], truth(), part=part)
        first, last = ("P3", "P5") if part == "neck" else ("C3", "C5")
        assert reliance.untouched["AP"] == 1.0
        assert len(reliance.variants) == 12
        for replacement in ("zero", "mean"):
            dropped, kept = reliance.variants[Variant("drop", first, replacement)], reliance.variants[Variant("keep", last, replacement)]
            assert (dropped["APs"], dropped["APm"], dropped["AR100"]) == (0.0, 1.0, pytest.approx(2 / 3))
            assert (kept["APs"], kept["APm"], kept["AR100"]) == (0.0, pytest.approx(51 / 101), pytest.approx(1 / 3))

    @pytest.mark.parametrize("part", ["neck", "backbone"])
    def test_what_the_head_sees(self, part):
        detector = stub()
        batches = [(make_images((64, 96), (40, 56)), None), (make_images((24, 96)), None)]
        level_ablation(detector, batches, truth(3), part=part, replacements=["mean"])
        # Both pictures of the first batch, then the second's: positions inside a picture, by plain loops.
        images = [((batch.pixels[i].float() - 50) / 64, batch.sizes[i].tolist()) for batch, _ in batches for i in range(len(batch))]
        sums, count = torch.zeros(3), 0
        for pixels, (height, width) in images:
            for row in range(-(-height // 16)):
                for column in range(-(-width // 16)):
                    sums += 2 * pixels[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].mean(dim=(1, 2))
                    count += 1
        untouched, dropped_p4 = detector.model.head.seen[0], detector.model.head.seen[2]
        assert torch.equal(dropped_p4[0], untouched[0])
        assert torch.equal(dropped_p4[2], untouched[2])
        assert torch.allclose(dropped_p4[1], (sums / count)[None, :, None, None].expand_as(dropped_p4[1]), atol=1e-5)

    def test_zeros_need_one_pass(self):
        reliance = level_ablation(stub(), iter([(make_images((64, 96)), None)]), truth(1), replacements=["zero"])
        assert [variant.action for variant in reliance.variants] == ["drop"] * 3 + ["keep"] * 3

    def test_an_iterator_is_gone_after_one_pass(self):
        with pytest.raises(ValueError, match="twice"):
            level_ablation(stub(), iter([]), truth(1))

    def test_nothing_is_left_behind(self):
        detector = stub()
        detector.model.head.eval()
        level_ablation(detector, [(make_images((64, 96)), None)], truth(1))
        assert detector.model.training
        assert not detector.model.head.training
        assert not detector.model.neck._forward_hooks

    def test_text_and_data(self):
        reliance = level_ablation(stub(), [(make_images((64, 96)), None)], truth(1), replacements=["mean"])
        saved = json.loads(json.dumps(reliance.as_dict(), allow_nan=False))
        assert saved["caveat"] == CAVEAT
        assert saved["variants"][0]["level"] == "P3"
        assert saved["variants"][0]["APl"] is None
        lines = reliance.table().splitlines()
        assert "reliance, not need" in lines[0]
        assert lines[3].split()[:5] == ["P3", "replaced", "by", "mean", "-33.7"]


class TestWholeDetector:
    def test_untouched_is_the_ordinary_evaluation(self, coco_root, tmp_path):
        save_checkpoint(tmp_path / "tiny.pt", tiny_state(coco_root, seed=1))
        detector = load(tmp_path / "tiny.pt", device="cpu")
        index = read_index(coco_root / "annotations" / "instances_val.json", coco_root / "val")
        batches = eval_loader(DetectionDataset(index, make_buckets(detector.image_size)), batch_size=4, workers=0)
        reliance = level_ablation(detector, batches, index.ground_truth(), part="backbone", replacements=["zero"])
        options = {"category_ids": list(detector.category_ids), "device": detector.device, "precision": detector.precision}
        results = collect_predictions(detector.model, batches, **options)
        expected = evaluate_boxes(index.ground_truth(), results).summary
        assert reliance.untouched == {name: expected[name] for name in reliance.untouched}
        assert reliance.levels == tuple(level.name for level in detector.model.backbone.levels)
        assert len({json.dumps(values) for values in reliance.variants.values()}) > 1
