"""Verdicts on each run's best epoch: second to those on the last, on the right predictions, and none where they would not be fair."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
from run_folders import detections, write_run

from fusion_det.compare.files import compare_files
from fusion_det.config.cli import main
from fusion_det.data.coco_index import read_index

QUICK = ["statistics.resamples=40", "statistics.margin=0.01", "explain=false"]
NOISE = {"a": (6.0, 1.0), "b": (0.2, 0.9)}
"""Of the last and the best predictions: at the last epoch b is far better, at the best ones about the same."""


def make_run(folder: Path, root: Path, seed: int, noises: tuple[float, float], *, best: int = 3, last: int = 4) -> Path:
    """A finished run of ``last`` epochs, evaluated after each, the second of them twice (as after a crash)."""
    write_run(folder, root, seed=seed, noise=noises[0])
    truth = read_index(root / "annotations" / "instances_val.json", root / "val").ground_truth()
    content = json.dumps(detections(truth, 100 * seed + 50, noises[1])).encode()
    if best != last:
        (folder / "predictions_best.json").write_bytes(content)
    lines = [json.dumps({"step": 4 * epoch, "val/AP": 0.1 * epoch}) for epoch in (1, 2, *range(2, last + 1))]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    results = json.loads((folder / "results.json").read_text())
    summary = {"AP": 0.1 if best == last else 0.25, "AP50": 0.5}
    results |= {"epoch": last, "best": {"epoch": best, "summary": summary, "predictions": hashlib.sha256(content).hexdigest()}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def change(folder: Path, **best: object) -> None:
    results = json.loads((folder / "results.json").read_text())
    results["best"] |= best
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def study(tmp_path, coco_root) -> Path:
    for name, noises in NOISE.items():
        for seed in (0, 1):
            make_run(tmp_path / f"{name}{seed}", coco_root, seed, noises)
    return tmp_path


def compare(folder: Path, *words: str) -> tuple[dict, str]:
    """report.json and the part of report.md about best epochs."""
    runs = f"runs=a={folder}/a0,{folder}/a1; b={folder}/b0,{folder}/b1"
    assert main("compare", [runs, *QUICK, f"folder={folder / 'out'}", *words]) == 0
    lines = (folder / "out" / "report.md").read_text()
    return json.loads((folder / "out" / "report.json").read_text()), lines.partition("## Best epoch\n")[2].partition("\n## ")[0]


def test_the_verdicts_are_those_of_the_best_predictions(study, coco_root, caplog):
    caplog.set_level("INFO", logger="fusion_det")
    found, part = compare(study)
    best = found["best_epochs"]["comparison"]
    files = {name: [study / f"{name}{seed}" / "predictions_best.json" for seed in (0, 1)] for name in NOISE}
    options = {"resamples": 40, "margin": 0.01, "metrics": (), "classes": False}
    expected = compare_files(coco_root / "annotations" / "instances_val.json", files, **options)
    assert best["differences"] == json.loads(json.dumps(expected.as_dict()["differences"]))
    assert best["verdicts"] == json.loads(json.dumps(expected.as_dict()["verdicts"]))
    assert best["differences"] != found["comparison"]["differences"]
    assert found["best_epochs"]["evaluations"] == 4  # a repeated one is not a chance more
    difference = best["differences"]["b"]["AP"]
    assert "chosen and reported on the same split: optimistic" in part
    assert f"{100 * difference['estimate']:+.2f}" in part
    assert "3, 3" in part
    assert "Every run was evaluated 4 times" in part
    assert f"on each run's best epoch, chosen on the same pictures and so optimistic: b {best['verdicts']['b']['word']}" in caplog.text
    assert "No verdict differs from that at the last epoch." in part  # with two seeds and four pictures: cannot tell
    rows = list(csv.DictReader((study / "out" / "results.csv").open()))
    assert {(row["best_epoch"], row["best_AP"]) for row in rows} == {("3", "0.25")}


def test_they_come_after_the_verdicts_on_the_last_epoch(study):
    compare(study)
    html = (study / "out" / "report.html").read_text()
    assert 0 < html.index('<section id="verdicts"') < html.index('<section id="best"')
    answers = html.split('class="answers"')[1].split("</section>")[0]
    found = json.loads((study / "out" / "report.json").read_text())
    assert f"{100 * found['comparison']['differences']['b']['AP']['estimate']:+.2f}" in answers


def test_a_best_epoch_that_is_the_last_needs_no_second_file(study, coco_root):
    for seed in (0, 1):
        folder = study / f"b{seed}"
        (folder / "predictions_best.json").unlink()
        change(folder, epoch=4)
    best = compare(study)[0]["best_epochs"]["comparison"]
    files = {
        "a": [study / f"a{seed}" / "predictions_best.json" for seed in (0, 1)],
        "b": [study / f"b{seed}" / "predictions.json" for seed in (0, 1)],
    }
    options = {"resamples": 40, "margin": 0.01, "metrics": (), "classes": False}
    expected = compare_files(coco_root / "annotations" / "instances_val.json", files, **options)
    assert best["differences"] == json.loads(json.dumps(expected.as_dict()["differences"]))


def test_all_last_is_one_line(tmp_path, coco_root):
    for name, noises in NOISE.items():
        for seed in (0, 1):
            make_run(tmp_path / f"{name}{seed}", coco_root, seed, noises, best=4)
    found, part = compare(tmp_path)
    assert part.strip() == "In every run the best epoch is the last one, so the verdicts are about both."
    assert (found["best_epochs"]["all_last"], found["best_epochs"]["comparison"]) == (True, None)


def damaged(folder: Path) -> None:
    (folder / "predictions_best.json").write_text("[]")


def gone(folder: Path) -> None:
    (folder / "predictions_best.json").unlink()


def older(folder: Path) -> None:
    change(folder, predictions="")


def unlogged(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()


def longer(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 99, "val/AP": 0.1}) + "\n")


def silent(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    del results["best"]
    (folder / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damaged, "b/seed1: predictions_best.json is not the file that results.json tells of"),
        (gone, "b/seed1: cannot read predictions_best.json: No such file or directory"),
        (older, "b/seed1: was trained by a version that did not keep the predictions of the best epoch"),
        (unlogged, "the number of evaluations of b/seed1 is not known"),
        (longer, "the runs were evaluated 4 to 5 times, and who is evaluated more often has more chances"),
        (silent, "no best epoch of b/seed1 is known: only the end of its training was measured"),
    ],
)
def test_where_they_would_not_be_fair_there_are_none_but_the_reason(study, caplog, spoil, reason):
    caplog.set_level("INFO", logger="fusion_det")
    spoil(study / "b1")
    found, part = compare(study)
    assert found["comparison"]["verdicts"]["b"]["word"] in ("better", "worse", "same", "cannot tell")
    assert found["best_epochs"]["comparison"] is None
    assert found["best_epochs"]["no_verdict"].startswith(reason)
    assert f"No verdicts on the best epochs: {reason}" in part.replace("\\", "")
    assert f"no verdicts on the best epochs: {reason}" in caplog.text
    assert "| a | 25.00 (+15.00) | 10.00 | 3, 3 |" in part.replace("\\", "")  # the means are told as far as they are known


def test_runs_that_tell_no_best_epoch_have_no_such_part(tmp_path, coco_root):
    for name, (noise, _) in NOISE.items():
        for seed in (0, 1):
            write_run(tmp_path / f"{name}{seed}", coco_root, seed=seed, noise=noise)
    found, part = compare(tmp_path)
    assert (found["best_epochs"], part) == (None, "")
