"""tools/ensemble.py through the command line: files in, one file out, and every fault in one line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fusion_det.config.cli import main
from fusion_det.evaluation.prediction_files import FileSources, read_files

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}]


def row(image, category, box, score, **more):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score, **more}


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def fuse(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """(exit code, lines on stderr, predictions, results) of a run over the given contents as files a.json, b.json, ..."""

    def run(*contents, words=()):
        files = [write(tmp_path / f"{'abc'[i]}.json", content) for i, content in enumerate(contents)]
        given = [f"predictions=[{','.join(map(str, files))}]", f"output={tmp_path / 'out'}", *words]
        code = main("ensemble", given)
        out = tmp_path / "out"
        read = [json.loads((out / name).read_text()) if (out / name).exists() else None for name in ("predictions.json", "results.json")]
        return code, capfd.readouterr().err.splitlines(), *read

    return run


A = [row(1, 3, [10, 10, 20, 20], 0.9, level="P3"), row(1, 8, [50, 50, 30, 10], 0.6, level="P4"), row(2, 3, [0, 0, 8, 8], 0.5, level="P3")]
B = [row(1, 3, [10, 10, 20, 24], 0.6), row(4, 8, [5.125, 5.25, 9.5, 9.75], 0.4)]  # another framework: no levels
TRUTH = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 99, "height": 99} for i in (1, 2, 3, 4)],
    "categories": CATEGORIES,
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 22], "area": 440, "iscrowd": 0},
        {"id": 2, "image_id": 4, "category_id": 8, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0},
    ],
}


def test_two_files_by_hand(fuse) -> None:
    """WBF, T = 2: the shared box has (0.9 + 0.6) / 2 and its lower edge at (30 * 0.9 + 34 * 0.6) / 1.5 = 31.6; lone boxes count half."""
    code, errors, written, results = fuse(A, B)
    assert (code, errors) == (0, [])
    assert written == [
        {"image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 21.6], "score": 0.75, "level": "P3", "source": 0},
        {"image_id": 1, "category_id": 8, "bbox": [50, 50, 30, 10], "score": 0.3, "level": "P4", "source": 0},
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, 8, 8], "score": 0.25, "level": "P3", "source": 0},
        {"image_id": 4, "category_id": 8, "bbox": [5.125, 5.25, 9.5, 9.75], "score": 0.2, "source": 1},
    ]
    assert [Path(path).name for path in results["sources"]] == ["a.json", "b.json"]
    assert "summary" not in results


def test_weights_by_hand(fuse) -> None:
    _, _, written, results = fuse(A, B, words=["weights=[1,3]"])
    assert written[0]["score"] == pytest.approx((0.9 + 3 * 0.6) / 2 * 2 / 4)
    assert (written[0]["source"], "level" in written[0]) == (1, False)  # 1.8 is the best-scoring member
    assert written[-1]["score"] == pytest.approx(3 * 0.4 / 4)
    assert results["weights"] == [1, 3]


def test_nms_of_one_file_keeps_every_digit(fuse) -> None:
    """Also far to the right, where float32 has no thousandths, and for scores that float32 cannot tell apart."""
    far = [row(7, 3, [20000.123 + 40 * i, 3000.457, 12.345, 6.789], round(0.9123456 + i * 1e-7, 7), level="P5") for i in range(5)]
    code, _, written, _ = fuse(far, words=["late_fusion=nms"])
    assert code == 0
    assert sorted(written, key=lambda r: r["score"]) == [{**r, "source": 0} for r in far]
    assert [r["score"] for r in written] == sorted([r["score"] for r in far], reverse=True)


def test_neither_chunks_nor_the_order_of_records_matter(fuse, monkeypatch) -> None:
    from fusion_det.evaluation import fuse_files

    def many(seed):
        rng = random.Random(seed)
        boxes = [[round(rng.random() * 50 + low, 2) for low in (0, 0, 5, 5)] for _ in range(80)]
        return [row(rng.choice([1, 5, 6, 9, 30]), rng.choice([3, 8]), box, round(rng.random(), 6)) for box in boxes]

    _, _, together, _ = fuse(many(1), many(2))
    _, _, reordered, _ = fuse(many(1)[::-1], many(2)[40:] + many(2)[:40])
    assert reordered == together
    monkeypatch.setattr(fuse_files, "IMAGES_AT_ONCE", 2)
    _, _, chunks, _ = fuse(many(1), many(2))
    assert chunks == together
    assert [r["image_id"] for r in together] == sorted(r["image_id"] for r in together)


def test_measured_against_annotations_without_pictures(fuse, tmp_path: Path) -> None:
    truth = write(tmp_path / "val.json", TRUTH)
    code, errors, _, results = fuse(A, B, words=[f"annotations={truth}", "expect.AP50=[0.75,0.001]"])
    assert (code, errors) == (0, [])
    assert results["summary"]["AP50"] == pytest.approx(0.75)  # the dog of the first file is wrong and stays ahead of the right one
    assert [each["AP50"] for each in results["each"]] == pytest.approx([0.5, 1.0])
    assert fuse(A, B, words=[f"annotations={truth}", "expect.AP50=[0.5,0.001]"])[0] == 4


def test_score_threshold_and_another_late_fusion(fuse) -> None:
    _, _, written, results = fuse(A, B, words=["late_fusion=none", "score_threshold=0.55"])
    assert [r["score"] for r in written] == [0.9, 0.6, 0.6]
    assert results["late_fusion"]["_target_"].endswith("NoSuppression")


NAN = '[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": NaN}]'
INFINITE = '[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, Infinity], "score": 0.5}]'
FAULTS = {
    "nan": (NAN, "score is not finite"),
    "infinite": (INFINITE, "box is not finite"),
    "negative size": ([row(1, 3, [1, 2, -3, 4], 0.5)], "negative width or height"),
    "cut": ('[{"image_id": 1, "cate', "not whole JSON"),
    "empty file": ("", "is empty"),
    "no detections": ([], "holds no detections"),
    "annotations": (TRUTH, "expected a list of detections"),
    "percent": ([row(1, 3, [1, 2, 3, 4], 55.0)], "not between 0 and 1"),
    "normalised boxes": ([row(1, 3, [0.1, 0.2, 0.3, 0.4], 0.5)], "shares of the picture"),
    "missing key": ([{"image_id": 1, "category_id": 3, "score": 0.5}], "the key 'bbox' is missing"),
    "twice inside": (
        [row(1, 3, [1, 2, 3, 4], 0.5), row(2, 3, [1, 2, 3, 4], 0.5), row(1, 3, [1, 2, 3, 4], 0.5)],
        "given twice, the first repeats [0]",
    ),
    "other pictures": ([row(77, 3, [1, 2, 3, 4], 0.5)], "has no picture in common with"),
    "the same file": (A, "holds the same detections as"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_bad_second_file_is_named_in_one_line(case, fuse, tmp_path: Path) -> None:
    content, said = FAULTS[case]
    code, errors, written, _ = fuse(A, content)
    assert code == 3, errors
    (line,) = errors
    assert said in line
    assert str(tmp_path / "b.json") in line
    assert written is None


def test_unknown_ids_are_told_for_each_file_when_there_are_annotations(fuse, tmp_path: Path) -> None:
    truth = write(tmp_path / "val.json", TRUTH)
    code, errors, written, _ = fuse([*A, row(99, 3, [1, 1, 2, 2], 0.5)], [*B, row(1, 5, [1, 1, 2, 2], 0.5)], words=[f"annotations={truth}"])
    assert code == 3
    assert written is None
    assert len(errors) == 2
    assert f"{tmp_path / 'a.json'}: 1 image ids are not in" in errors[0]
    assert ": 99 ->" in errors[0]
    assert f"{tmp_path / 'b.json'}: 1 category ids are not in" in errors[1]


def test_all_bad_files_are_told_at_once(fuse) -> None:
    code, errors, _, _ = fuse(NAN, "", [])
    assert code == 3
    assert ["a.json" in errors[0], "b.json" in errors[1], "c.json" in errors[2]] == [True] * 3
    assert len(errors) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["weights=[1]"], "weights: 1 weights for 2 files"),
        (["weights=[1,0]"], "weights: got [1, 0], expected a list of numbers above 0"),
        (["expect.AP=[0.5,0.1]"], "expect: nothing is measured without annotations=FILE"),
        (["late_fusion=wfb"], "did you mean late_fusion=wbf?"),
        (["late_fusion.iou_threshold=1.5"], "late_fusion.iou_threshold: got 1.5, expected a number from 0 to 1"),
        (["late_fusion.confidence=mean"], "late_fusion.confidence: got 'mean', expected one of avg"),
        (["annotations=nowhere.json"], "no such file"),
    ],
)
def test_usage_faults_exit_with_2(words, said, fuse) -> None:
    code, errors, written, _ = fuse(A, B, words=words)
    assert code == 2, errors
    (line,) = errors
    assert said in line
    assert written is None


def test_missing_files_are_told_before_any_is_read(tmp_path: Path, capfd) -> None:
    assert main("ensemble", [f"predictions=[{tmp_path / 'x.json'},{tmp_path}]"]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert [("x.json" in errors[0]), ("is a folder" in errors[1]), len(errors)] == [True, True, 2]


def test_levels_and_files_survive_a_second_round(fuse, tmp_path: Path) -> None:
    """What the tool wrote, it reads: the level goes on, the source now says which file of this round."""
    _, _, once, _ = fuse(A, words=["late_fusion=nms"])
    _, _, again, _ = fuse(once, B, words=["late_fusion=nms", f"output={tmp_path / 'out'}"])
    assert [(r.get("level"), r["source"]) for r in again if r["image_id"] == 1] == [("P3", 0), ("P4", 0)]
    sources = FileSources.of(read_files([tmp_path / "a.json", tmp_path / "b.json"]), score_threshold=0)
    assert sources.level_names == ("P3", "P4", None)
    assert sources.image_ids == (1, 2, 4)
