"""Views and several detectors as one: a detector that finds a bright rectangle must find the same one however it looks."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import tiny_state
from torch import nn

from fusion_det.config.cli import main
from fusion_det.data.buckets import make_buckets, resized
from fusion_det.engine.checkpoint import save_checkpoint
from fusion_det.ensemble import Ensemble, merged_late_fusion
from fusion_det.errors import CheckpointError, ConfigError
from fusion_det.inference import LoadedDetector, load
from fusion_det.late_fusion.nms import NMS
from fusion_det.structures import LevelSpec, RawDetections

NMS_NODE = {"_target_": "fusion_det.late_fusion.nms.NMS", "iou_threshold": 0.5, "max_detections": 50, "class_agnostic": False}
WBF_NODE = {
    "_target_": "fusion_det.late_fusion.wbf.WBF",
    "iou_threshold": 0.5,
    "confidence": "avg",
    "max_detections": 50,
    "class_agnostic": False,
}


class BrightRectangle(nn.Module):
    """Its only candidate is the box around all pixels above 150, on the level that it is told."""

    def __init__(self, names_of_levels=("P3", "P4"), level=1, score=0.8) -> None:
        super().__init__()
        self.head = nn.Identity()
        self.head.levels = tuple(LevelSpec(name, 1, 8 * 2**i) for i, name in enumerate(names_of_levels))
        self.late_fusion = NMS(iou_threshold=0.5, max_detections=50, class_agnostic=False)
        self.level, self.score, self.seen = level, score, []

    def predict_raw(self, images) -> RawDetections:
        self.seen.append(tuple(images.pixels.shape[2:]))
        bright = images.pixels.float().mean(1) > 150
        edges = []
        for mask in bright:
            rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
            edges.append([float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1])
        column = torch.zeros(len(edges), 1, dtype=torch.int64)
        return RawDetections(torch.tensor(edges)[:, None], column + self.score, column, column + self.level, column == 0)


def stub(where="a.pt", size=128, names=("red",), ids=(7,), **options) -> LoadedDetector:
    detector = object.__new__(LoadedDetector)
    detector.__dict__ |= {
        "config": {"late_fusion": NMS_NODE},
        "class_names": tuple(names),
        "category_ids": tuple(ids),
        "image_size": size,
        "model": BrightRectangle(**options),
        "device": torch.device("cpu"),
        "precision": "fp32",
        "where": where,
    }
    detector.level_names = tuple(level.name for level in detector.model.head.levels)
    return detector


def picture(height=180, width=240, box=(30, 40, 90, 140)) -> torch.Tensor:
    pixels = torch.full((3, height, width), 20, dtype=torch.uint8)
    pixels[:, box[1] : box[3], box[0] : box[2]] = 250
    return pixels


@pytest.mark.parametrize("shape", [(180, 240), (240, 180), (200, 200), (60, 240), (37, 53)])
def test_every_view_finds_the_box_where_it_is(shape) -> None:
    """Not symmetric and not in the middle, so a wrong turn or scale would show; at these sizes a pixel is at most two of the original."""
    height, width = shape
    box = (width // 8, height // 5, width // 3, height // 2)
    node = {**NMS_NODE, "_target_": "fusion_det.late_fusion.none.NoSuppression"}
    del node["iou_threshold"], node["class_agnostic"]
    ensemble = Ensemble([stub()], scales=[1.0, 0.5, 2.0], flip=True, late_fusion=node)
    (found,) = ensemble.predict(picture(height, width, box))
    assert sorted(found.sources) == [0, 1, 2, 3, 4, 5]
    tolerance = max(2.0, 2 * max(shape) / 64)
    for row in found.boxes.tolist():
        assert row == pytest.approx(list(box), abs=tolerance)


def test_sources_are_named_and_levels_united() -> None:
    both = [stub("a.pt"), stub("b.pt", size=96, names_of_levels=("C2", "P3"), level=0, score=0.9)]
    ensemble = Ensemble(both, flip=True, late_fusion=WBF_NODE)
    assert ensemble.source_names == ("a.pt at 128 px", "a.pt at 128 px, mirrored", "b.pt at 96 px", "b.pt at 96 px, mirrored")
    assert ensemble.level_names == ("P3", "P4", "C2")
    assert ensemble.image_sizes == (128, 96)
    (found,) = ensemble.predict(picture())
    assert found.levels == ("C2",)  # level 0 of b.pt, which is surer
    assert found.sources[0] in (2, 3)
    assert found.category_ids == (7,)
    assert [detector.model.seen for detector in both] == [[(96, 128)] * 2, [(96, 96)] * 2]  # 96 * 3 / 4 = 72, rounded up


def test_weights_belong_to_checkpoints_not_to_views() -> None:
    ensemble = Ensemble([stub("a.pt"), stub("b.pt")], flip=True, weights=[3, 1], late_fusion=WBF_NODE)
    (found,) = ensemble.predict(picture())
    assert found.scores.tolist() == pytest.approx([0.8 * (3 + 3 + 1 + 1) / 4 * 4 / 8])  # mean of w s, times 4 of 4, over the sum of w
    with pytest.raises(ConfigError, match="3 weights for 2 checkpoints"):
        Ensemble([stub("a.pt"), stub("b.pt")], weights=[1, 2, 3])


def test_late_fusions_that_take_no_weights_are_named() -> None:
    detector = stub()
    detector.model.late_fusion = type("Mine", (), {"__call__": lambda self, sources: None})()
    with pytest.raises(ConfigError, match="Mine takes no weights"):
        Ensemble([detector, stub("b.pt")], weights=[1, 2])


@pytest.mark.parametrize(("names", "ids"), [(("blue",), (7,)), (("red",), (8,)), (("red", "blue"), (7, 8))])
def test_other_classes_are_refused_in_one_line(names, ids) -> None:
    with pytest.raises(CheckpointError, match=r"b\.pt: knows other classes than a\.pt") as caught:
        Ensemble([stub("a.pt"), stub("b.pt", names=names, ids=ids)])
    (line,) = caught.value.lines
    assert str((ids[-1], names[-1])) in line
    assert caught.value.exit_code == 3


def test_scales_that_round_to_one_size_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scales \[1.0, 1.05\] of 128 px give the sizes \[128, 128\]"):
        Ensemble([stub()], scales=[1.0, 1.05])


def test_values_change_the_checkpoints_own_late_fusion_and_are_checked() -> None:
    assert merged_late_fusion(NMS_NODE, {"iou_threshold": 0.7}) == {**NMS_NODE, "iou_threshold": 0.7}
    assert merged_late_fusion(NMS_NODE, WBF_NODE) == WBF_NODE
    assert merged_late_fusion(NMS_NODE, None) == NMS_NODE
    with pytest.raises(ConfigError, match="iou_threshold: got 7, expected a number from 0 to 1"):
        merged_late_fusion(NMS_NODE, {"iou_threshold": 7})
    with pytest.raises(ConfigError, match="iou_treshold"):
        merged_late_fusion(NMS_NODE, {"iou_treshold": 0.7})


def test_a_picture_has_the_same_bucket_at_every_size() -> None:
    for size in (32, 64, 160, 320, 640):
        for other in (32, 96, 128, 800):
            shapes, changed = make_buckets(size), resized(make_buckets(size), other)
            assert len(shapes) == len(changed)
            assert max(max(shape) for shape in changed) == other
            assert all(side % 32 == 0 for shape in changed for side in shape)
    assert resized(make_buckets(640), 800) == make_buckets(800)


@pytest.fixture(scope="module")
def trained(coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints with random weights, the second with other ones, which find something."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("a.pt", "b.pt")):
        save_checkpoint(folder / name, tiny_state(coco_root, seed))
    return folder / "a.pt", folder / "b.pt"


def run(capfd, tool: str, *words: str) -> tuple[int, str]:
    code = main(tool, [*words, "device=cpu"])
    return code, capfd.readouterr().err


def read(path: Path):
    return json.loads(path.read_text())


def test_one_view_is_the_detector_itself_to_the_bit(trained, coco_root: Path) -> None:
    alone, ensemble = load(trained[0], device="cpu"), Ensemble([load(trained[0], device="cpu")])
    pictures = sorted((coco_root / "val").iterdir())
    for one, other in zip(alone.predict(pictures, score_threshold=0), ensemble.predict(pictures, score_threshold=0), strict=True):
        assert len(one.names)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert (one.levels, one.sources) == (other.levels, other.sources)


def test_evaluate_with_views_and_two_checkpoints(trained, tmp_path: Path, capfd) -> None:
    a, b = trained
    plain = ["workers=0", "batch_size=2"]
    assert run(capfd, "evaluate", f"checkpoint={a}", *plain, f"output={tmp_path / 'one'}")[0] == 0
    words = [f"checkpoint=[{a},{b}]", "tta.scales=[1,1.5]", "tta.flip=true", "late_fusion=wbf", "late_fusion.iou_threshold=0.6"]
    assert run(capfd, "evaluate", *words, "weights=[2,1]", *plain, f"output={tmp_path / 'all'}") == (0, "")
    written, results = read(tmp_path / "all" / "predictions.json"), read(tmp_path / "all" / "results.json")
    assert {row["source"] for row in written} <= set(range(8))
    assert len({row["source"] for row in written}) > 2
    assert {row["level"] for row in written} <= {"P3", "P4", "P5", "P6", "P7"}
    assert len(results["sources"]) == 8
    assert results["late_fusion"]["iou_threshold"] == 0.6
    assert read(tmp_path / "one" / "results.json")["counts"]["images"] == results["counts"]["images"] == 4
    assert {row["source"] for row in read(tmp_path / "one" / "predictions.json")} == {0}


def test_evaluate_says_what_is_wrong_in_one_line(trained, coco_root: Path, tmp_path: Path, capfd) -> None:
    a = trained[0]
    cases = {
        2: [
            ([f"checkpoint=[{a},{a.parent / 'c.pt'}]"], "no such file or folder"),
            ([f"checkpoint=[{a},{a.parent}]"], "is a folder"),
            ([f"checkpoint=[{a},{a}]"], "is named twice"),
            ([f"checkpoint={a}", "weights=[1,2]"], "2 weights for 1 checkpoints"),
            ([f"checkpoint={a}", "tta.scales=[]"], "tta.scales"),
            ([f"checkpoint={a}", "tta.scale=[1]"], "did you mean tta.scales?"),
            ([f"checkpoint={a}", "late_fusion.iou_threshold=2"], "late_fusion.iou_threshold: got 2"),
            ([f"checkpoint={a}", "late_fusion=wfb"], "did you mean late_fusion=wbf?"),
        ],
        3: [([f"checkpoint=[{a},{tmp_path / 'other.pt'}]"], "knows other classes than")],
    }
    other = copy.deepcopy(tiny_state(coco_root, 1))
    other["class_names"] = ["red", "green", "violet"]
    save_checkpoint(tmp_path / "other.pt", other)
    for code, wrong in cases.items():
        for words, said in wrong:
            got, lines = run(capfd, "evaluate", *words, "workers=0")
            assert got == code, (words, lines)
            assert said in lines
            assert len(lines.splitlines()) == 1, lines


def test_predict_names_the_source_of_each_detection(trained, coco_root: Path, tmp_path: Path, capfd) -> None:
    a, b = trained
    words = [f"checkpoint=[{a},{b}]", f"source={coco_root / 'val'}", "tta.flip=true", "score_threshold=0", "draw=false"]
    assert run(capfd, "predict", *words, f"output={tmp_path}") == (0, "")
    written = read(tmp_path / "predictions.json")
    assert len(written["sources"]) == 4
    assert {row["source"] for shown in written["pictures"] for row in shown["detections"]} == {0, 1, 2, 3}
