"""What users get wrong, through the real command line: one clear line on stderr, the right exit code, no traceback, nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from fusion_det.config.cli import main
from fusion_det.engine.checkpoint import load_checkpoint, save_checkpoint

WORDS = [
    "data=coco",
    "data.image_size=64",
    "neck.channels=8",
    "backbone.stem_width=8",
    "backbone.widths=[8,8,8,8]",
    "backbone.depths=[1,1,1,1]",
    "trainer.epochs=1",
    "trainer.pictures=0",
    "trainer.precision=fp32",
    "loader.batch_size=2",
    "loader.workers=0",
    "logger.tensorboard=false",
]


@pytest.fixture
def root(coco_root: Path, tmp_path: Path) -> Path:
    """A private copy of the small data set, to be damaged."""
    return Path(shutil.copytree(coco_root, tmp_path / "set"))


@pytest.fixture
def train(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Run tools/train.py on ``root``: (exit code, lines on stderr)."""

    def run(*words: str) -> tuple[int, list[str]]:
        given = [*WORDS, f"data.root={root}", *words]
        if not any(word.startswith("run_dir=") for word in words):
            given.append(f"run_dir={tmp_path / 'run'}")
        code = main("train", given)
        return code, [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]

    return run


def edit(root: Path, change, split: str = "train") -> Path:
    """Apply ``change`` to the annotation document of ``split``."""
    path = root / "annotations" / f"instances_{split}.json"
    document = json.loads(path.read_text())
    changed = change(document)
    path.write_text(json.dumps(document if changed is None else changed))
    return path


def first_picture(root: Path) -> Path:
    return sorted((root / "train").glob("*.jpg"))[0]


def bad_boxes(document):
    for annotation in document["annotations"]:
        annotation["bbox"][2] = -3


def no_images(document):
    document.update(images=[], annotations=[])


def unknown_category(document):
    document["annotations"][0]["category_id"] = 99


CASES = {
    "json missing": (lambda r: (r / "annotations" / "instances_train.json").unlink(), "train"),
    "json empty": (lambda r: (r / "annotations" / "instances_train.json").write_text(""), "instances_train.json"),
    "json cut": (lambda r: (r / "annotations" / "instances_train.json").write_text('{"images": [{"id": 1'), "instances_train.json"),
    "json of another kind": (lambda r: edit(r, lambda d: [{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]), "instances_train.json"),
    "all boxes invalid": (lambda r: edit(r, bad_boxes), "instances_train.json"),
    "zero images": (lambda r: edit(r, no_images), "instances_train.json"),
    "unknown category": (lambda r: edit(r, unknown_category), "99"),
    "picture missing": (lambda r: first_picture(r).unlink(), "train_000.jpg"),
    "picture empty": (lambda r: first_picture(r).write_bytes(b""), "train_000.jpg"),
    "picture cut": (lambda r: first_picture(r).write_bytes(first_picture(r).read_bytes()[:400]), "train_000.jpg"),
    "no data set": (lambda r: shutil.rmtree(r), "set"),
}


@pytest.mark.parametrize("case", CASES)
def test_data_faults_exit_with_3_and_name_the_place(case: str, root: Path, train) -> None:
    damage, named = CASES[case]
    damage(root)
    code, lines = train()
    assert code == 3, lines
    assert len(lines) >= 1
    assert any(named in line for line in lines), lines


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.epoch=3"], "did you mean trainer.epochs?"),
        (["neck=bifpm"], "did you mean neck=bifpn?"),
        (["loader.batch_size=0", "optimizer.lr=-1", "head.norm=batch"], "expected"),
        (["device=cuda:7"], "torch sees"),
        (["neck=single", "neck.topology.stride=128"], "stride 128 is not among the backbone's strides"),
        (["data.image_size=100"], "is not a multiple of 32"),
        (["fusion._target_=os.system"], "refused"),
        (["checkpoint=x"], "unknown key"),
    ],
)
def test_config_faults_exit_with_2_before_anything_is_written(words: list[str], expected: str, train, tmp_path: Path) -> None:
    code, lines = train(*words)
    assert code == 2, lines
    assert any(expected in line for line in lines), lines
    assert not (tmp_path / "run").exists() or "image_size" in words[0]
    assert len(lines) >= len(words) or len(words) == 2


def test_unknown_backbone_is_refused_before_the_data(tmp_path: Path, capfd) -> None:
    words = ["data=coco", "data.root=/nowhere", "backbone=timm", "backbone.name=resnet5000", f"run_dir={tmp_path / 'run'}"]
    assert main("train", words) == 2
    assert "error: backbone.name: timm has no model 'resnet5000' -> did you mean resnet" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_run_folder_in_use_and_not_writable(train, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    code, lines = train(f"run_dir={tmp_path / 'full'}")
    assert code == 2
    assert "already in use" in lines[0]
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    code, lines = train(f"run_dir={tmp_path / 'file' / 'run'}")
    assert code == 1
    assert "cannot write" in lines[0]


def test_tiny_pictures_and_pictures_without_boxes_train(root: Path, train, tmp_path: Path) -> None:
    """Not faults: a picture smaller than the stride, and batches in which no picture has a box."""

    def shrink(document):
        document["images"] = document["images"][:4]
        kept = document["annotations"][0]
        document["annotations"] = [kept]
        for image in document["images"]:
            size = (60, 60) if image["id"] == kept["image_id"] else (5, 3)
            Image.new("RGB", size).save(root / "train" / image["file_name"])
            image["width"], image["height"] = size
        kept["bbox"] = [10, 10, 20, 20]

    edit(root, shrink)
    code, lines = train()
    assert code == 0, lines
    assert json.loads((tmp_path / "run" / "results.json").read_text())["finished"] is True


@pytest.fixture
def checkpoint(train, tmp_path: Path) -> Path:
    code, lines = train()
    assert code == 0, lines
    return tmp_path / "run" / "best.pt"


def test_evaluate_and_predict_work_from_the_checkpoint_alone(checkpoint: Path, root: Path, tmp_path: Path, capfd) -> None:
    alone = tmp_path / "elsewhere" / "mine.pt"
    alone.parent.mkdir()
    shutil.copy(checkpoint, alone)
    assert main("evaluate", [f"checkpoint={alone}", "workers=0"]) == 0
    results = json.loads((alone.parent / "evaluate-val" / "results.json").read_text())
    assert len(results["summary"]) == 12
    assert set(results["per_class"]) == {"red", "green", "blue"}
    trained = json.loads((checkpoint.parent / "results.json").read_text())
    assert results["summary"] == trained["summary"]
    file, folder = root / "annotations" / "instances_train.json", root / "train"
    words = [f"checkpoint={alone}", f"annotations={file}", f"images={folder}", f"output={tmp_path / 'out'}", "workers=0"]
    assert main("evaluate", words) == 0
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) is not None
    moved = shutil.copytree(root, tmp_path / "moved")
    assert main("evaluate", [f"checkpoint={alone}", f"data.root={moved}", f"output={tmp_path / 'moved-out'}", "workers=0"]) == 0
    assert json.loads((tmp_path / "moved-out" / "results.json").read_text())["summary"] == trained["summary"]
    words = [f"checkpoint={alone}", "data=coco", f"data.root={moved}", "split=train", f"output={tmp_path / 'train-out'}", "workers=0"]
    assert main("evaluate", words) == 0
    assert json.loads((tmp_path / "train-out" / "results.json").read_text())["counts"]["images"] == 8
    assert main("predict", [f"checkpoint={alone}", f"source={folder}", f"output={tmp_path / 'drawn'}", "score_threshold=0.0"]) == 0
    written = json.loads((tmp_path / "drawn" / "predictions.json").read_text())
    assert [p["file_name"] for p in written["pictures"]] == sorted(p.name for p in folder.iterdir())
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 8
    assert {d["category_id"] for p in written["pictures"] for d in p["detections"]} <= {0, 7, 90}
    assert "Traceback" not in capfd.readouterr().err


def test_damaged_checkpoints_are_refused(checkpoint: Path, root: Path, capfd) -> None:
    content = checkpoint.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 4
    for damaged in (bytes(flipped), content[: len(content) // 2], b""):
        checkpoint.write_bytes(damaged)
        assert main("evaluate", [f"checkpoint={checkpoint}"]) == 3
        (line,) = [text for text in capfd.readouterr().err.splitlines() if text.startswith("error: ")]
        assert str(checkpoint) in line
    torch.save({"weights": torch.zeros(3)}, checkpoint)
    assert main("predict", [f"checkpoint={checkpoint}", f"source={root / 'train'}"]) == 3
    assert "not a fusion_det checkpoint" in capfd.readouterr().err


def test_checkpoint_of_another_class_count(checkpoint: Path, root: Path, train, tmp_path: Path, capfd) -> None:
    def fourth_class(document):
        document["categories"].append({"id": 91, "name": "yellow"})

    for split in ("train", "val"):
        edit(root, fourth_class, split)
    capfd.readouterr()
    assert main("evaluate", [f"checkpoint={checkpoint}", "workers=0"]) == 3
    assert "the checkpoint knows 3 classes, the data has 4" in capfd.readouterr().err
    code, lines = train(f"resume={checkpoint}", f"run_dir={tmp_path / 'second'}")
    assert code == 3
    assert "trained on 3 classes" in lines[0]


def test_weights_that_do_not_fit_their_config_are_refused(checkpoint: Path, capfd) -> None:
    state = load_checkpoint(checkpoint)
    state["config"]["neck"]["channels"] = 16
    save_checkpoint(checkpoint, state)
    assert main("evaluate", [f"checkpoint={checkpoint}"]) == 3
    assert "do not fit its own config" in capfd.readouterr().err


def test_hostile_target_in_a_checkpoint_is_never_resolved(checkpoint: Path, capfd) -> None:
    state = load_checkpoint(checkpoint)
    state["config"]["late_fusion"] = {"_target_": "os.system", "command": "false"}
    save_checkpoint(checkpoint, state)
    assert main("evaluate", [f"checkpoint={checkpoint}"]) == 2
    assert "refused" in capfd.readouterr().err
