"""The predictions file: what is written is what is read, and a broken file is told with its record."""

import json
import math

import pytest
import torch

from fusion_det.errors import DataError, FusionDetError
from fusion_det.evaluation import predictions as module
from fusion_det.evaluation.predictions import DetectionArrays, read_predictions, to_coco_results, write_predictions
from fusion_det.structures import Detections


def detections(count: int = 3, images: int = 2, dtype: torch.dtype = torch.float32) -> Detections:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(images, count, 2, generator=generator) * 300
    return Detections(
        boxes=torch.cat([corners, corners + torch.rand(images, count, 2, generator=generator) * 200], dim=-1).to(dtype),
        scores=torch.rand(images, count, generator=generator).sort(dim=1, descending=True).values.to(dtype),
        labels=torch.randint(0, 3, (images, count), generator=generator),
        levels=torch.randint(0, 2, (images, count), generator=generator),
        sources=torch.randint(0, 4, (images, count), generator=generator),
        valid=torch.ones(images, count, dtype=torch.bool),
    )


class TestToCocoResults:
    def test_one_detection_by_hand(self):
        one = Detections(
            boxes=torch.tensor([[[10.12345, 20.0, 30.5, 60.25], [0.0, 0.0, 0.0, 0.0]]]),
            scores=torch.tensor([[0.87654321, 0.0]]),
            labels=torch.tensor([[2, 0]]),
            levels=torch.tensor([[1, 0]]),
            sources=torch.tensor([[3, 0]]),
            valid=torch.tensor([[True, False]]),
        )
        results = to_coco_results(one, [123456789012], [5, 6, 90], ["P3", "P4"])
        assert results == [
            {
                "image_id": 123456789012,
                "category_id": 90,
                "bbox": [10.123, 20.0, 20.377, 40.25],
                "score": 0.8765432,
                "level": "P4",
                "source": 3,
            }
        ]

    def test_agrees_with_a_plain_loop(self):
        many = detections(count=50, images=4)
        many.valid[:, 40:] = False
        many.valid[2] = False
        expected = []
        for b, image_id in enumerate([9, 3, 7, 1]):
            for n in range(50):
                if many.valid[b, n]:
                    x1, y1, x2, y2 = (round(float(value), 3) for value in many.boxes[b, n])
                    expected.append((image_id, [10, 20, 30][many.labels[b, n]], [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]))
        results = to_coco_results(many, [9, 3, 7, 1], [10, 20, 30], ["P3", "P4"])
        assert [(r["image_id"], r["category_id"]) for r in results] == [e[:2] for e in expected]
        for result, (_, _, box) in zip(results, expected, strict=True):
            assert result["bbox"] == pytest.approx(box, abs=1e-9)
        json.dumps(results, allow_nan=False)
        assert len(json.dumps(results[0]["bbox"])) < 45  # rounded numbers are short in the file

    def test_scores_keep_their_order(self):
        many = detections(count=1000, images=1)
        scores = [result["score"] for result in to_coco_results(many, [1], [1, 2, 3], ["P3", "P4"])]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == len(set(many.scores.flatten().tolist()))

    def test_half_precision_and_none(self):
        assert len(to_coco_results(detections(dtype=torch.bfloat16), [1, 2], [1, 2, 3], ["P3", "P4"])) == 6
        assert to_coco_results(detections(count=0), [1, 2], [1, 2, 3], ["P3", "P4"]) == []
        with pytest.raises(ValueError, match="one image id for each of 2"):
            to_coco_results(detections(), [1], [1, 2, 3], ["P3", "P4"])

    def test_one_copy_from_the_device(self, monkeypatch):
        copies = []
        real = torch.Tensor.cpu
        monkeypatch.setattr(torch.Tensor, "cpu", lambda self, *a, **k: (copies.append(1), real(self, *a, **k))[1])
        for name in ("item", "tolist"):
            monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("a copy of its own"))
        to_coco_results(detections(count=20), [1, 2], [1, 2, 3], ["P3", "P4"])
        assert len(copies) == 1


class TestFile:
    def test_round_trip(self, tmp_path):
        results = to_coco_results(detections(count=20), [1, 2], [1, 2, 3], ["P3", "P4"])
        write_predictions(tmp_path / "predictions.json", results)
        assert read_predictions(tmp_path / "predictions.json") == results
        assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]

    def test_none_is_valid_json(self, tmp_path):
        write_predictions(tmp_path / "predictions.json", [])
        assert (tmp_path / "predictions.json").read_text().strip() == "[]"
        assert read_predictions(tmp_path / "predictions.json") == []

    @pytest.mark.parametrize("change", [{"score": math.nan}, {"bbox": [0, 0, math.inf, 1]}, {"bbox": [0, 0, -1, 1]}])
    def test_non_finite_is_not_written_and_the_old_file_stays(self, tmp_path, change):
        good = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
        write_predictions(tmp_path / "p.json", [good])
        with pytest.raises(DataError, match=r"p\.json\[1\] \(image 1\)"):
            write_predictions(tmp_path / "p.json", [good, good | change])
        assert read_predictions(tmp_path / "p.json") == [good]

    def test_a_disk_that_refuses(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "write_atomic", full)
        with pytest.raises(FusionDetError, match="No space left"):
            write_predictions(tmp_path / "p.json", [])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "empty"),
            (b"  \n", "empty"),
            (b'[{"image_id": 1, "cat', "cut short"),
            (b"\xff\xfe\x00", "not UTF-8"),
            (b"{}", "expected a list of detections, got dict"),
            (b"3", "expected a list"),
            (b"[" * 100_000, "cut short"),
            (b"[3]", r"\[0\]: expected an object"),
            (b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]', r"\[0\]: the key 'score' is missing"),
            (b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": NaN}]', r"\[0\] \(image 1\): score is not finite"),
            (b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1e999], "score": 1}]', "box is not finite"),
            (b'[{"image_id": 1, "category_id": 1, "segmentation": [], "score": 1}]', "the key 'bbox' is missing"),
        ],
    )
    def test_broken_files(self, tmp_path, content, message):
        (tmp_path / "p.json").write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read_predictions(tmp_path / "p.json")
        assert "p.json" in caught.value.where
        assert caught.value.mend

    def test_every_truncation_is_refused(self, tmp_path):
        write_predictions(tmp_path / "p.json", to_coco_results(detections(), [1, 2], [1, 2, 3], ["P3", "P4"]))
        content = (tmp_path / "p.json").read_bytes().rstrip()
        for length in range(len(content)):
            (tmp_path / "p.json").write_bytes(content[:length])
            with pytest.raises(DataError):
                read_predictions(tmp_path / "p.json")

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="No such file"):
            read_predictions(tmp_path / "p.json")

    def test_integral_floats_of_other_exporters_are_ids(self):
        arrays = DetectionArrays.from_results([{"image_id": 4.0, "category_id": 1, "bbox": (0, 0, 1, 1), "score": 1}])
        assert arrays.image_ids.tolist() == [4]
