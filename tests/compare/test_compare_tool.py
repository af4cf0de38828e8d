"""tools/compare.py on finished runs and files: verdicts where they are due, none where they would lie, and names that cannot bite."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from run_folders import detections, write_run

from fusion_det.compare.outcome import Failure, Outcome
from fusion_det.compare.run_record import RunRecord
from fusion_det.compare.tell import csv_text, outcome_lines, safe_cell
from fusion_det.config.cli import main
from fusion_det.data.coco_index import read_index

QUICK = ["statistics.resamples=40"]


@pytest.fixture(scope="module")
def study(tmp_path_factory, coco_root) -> Path:
    """Folders a0, a1, b0, b1 of two arms, b the better one, and odd ones for the faults."""
    root = tmp_path_factory.mktemp("study")
    for seed in (0, 1):
        write_run(root / f"a{seed}", coco_root, seed=seed, noise=6.0, words=["neck=fpn"])
        write_run(root / f"b{seed}", coco_root, seed=seed, noise=0.2, words=["neck=bifpn"], config={"neck._target_": "bifpn"})
    write_run(root / "other-data", coco_root, seed=0, noise=1.0, start={"data.val": "0" * 64})
    write_run(root / "other-eval", coco_root, seed=0, noise=1.0, config={"eval.max_detections": 7})
    write_run(root / "other-classes", coco_root, seed=0, noise=1.0, start={"class_names": ["red", "green", "pink"]})
    return root


def call(tmp_path, capsys, *words: str) -> tuple[int, str, str]:
    code = main("compare", [*words, *QUICK, f"folder={tmp_path / 'out'}"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def written(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "report.json").read_text())


def test_finished_runs_get_a_verdict(study, tmp_path, capsys, caplog):
    caplog.set_level("INFO", logger="fusion_det")
    code, _, err = call(tmp_path, capsys, f"runs=fpn={study}/a0,{study}/a1; bifpn={study}/b?")
    assert (code, err) == (0, "")
    found = written(tmp_path)
    assert found["comparison"]["verdicts"]["bifpn"]["word"] in ("better", "cannot tell", "same")
    assert found["comparison"]["differences"]["bifpn"]["AP"]["estimate"] > 0
    assert {d["kind"] for d in found["fairness"]} == {"variable"}
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [(row["arm"], row["seed"], row["status"], row["AP50"]) for row in rows] == [
        ("fpn", "0", "done", "0.2"), ("fpn", "1", "done", "0.2"), ("bifpn", "0", "done", "0.2"), ("bifpn", "1", "done", "0.2"),
    ]  # fmt: skip
    assert "differences between arms: 1 the variable under study" in caplog.text


def test_one_seed_gets_no_verdict(study, tmp_path, capsys):
    code, _, _ = call(tmp_path, capsys, f"runs=fpn={study}/a0; bifpn={study}/b0")
    assert code == 0
    assert written(tmp_path)["comparison"]["verdicts"]["bifpn"]["word"] == "none"


@pytest.mark.parametrize(
    ("folder", "key"), [("other-data", "validation data"), ("other-eval", "eval.max_detections"), ("other-classes", "classes")]
)
def test_other_data_settings_or_classes_give_no_verdict_but_the_reason(study, tmp_path, capsys, folder, key):
    code, _, _ = call(tmp_path, capsys, f"runs=fpn={study}/a0; odd={study}/{folder}")
    found = written(tmp_path)
    assert code == 3
    assert found["comparison"] is None
    assert any(reason.startswith(f"fpn and odd: {key} differs") for reason in found["no_verdict"])


def test_predictions_of_any_framework(tmp_path, capsys, coco_root):
    truth_file = coco_root / "annotations" / "instances_val.json"
    truth = json.loads(truth_file.read_text())
    for name, noise in (("a", 5.0), ("b", 0.3)):
        for seed in (0, 1):
            (tmp_path / f"{name}{seed}.json").write_text(json.dumps(detections(truth, seed, noise)))
    lists = f"predictions=A={tmp_path}/a0.json,{tmp_path}/a1.json; =cmd()|'B'={tmp_path}/b*.json"
    code, _, err = call(tmp_path, capsys, f"gt={truth_file}", lists.replace("=cmd()|'B'", '"<b>@x"'))
    assert (code, err) == (0, "")
    assert list(written(tmp_path)["comparison"]["verdicts"]) == ["<b>@x"]
    (tmp_path / "a1.json").write_text(json.dumps([{"image_id": 999, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 0.5}]))
    (tmp_path / "b0.json").write_text('[{"image_id": 20, "category_id": 7, "bbox": [0, 0, 1, 1], "score": NaN}]')
    code, _, err = call(tmp_path, capsys, f"gt={truth_file}", f"predictions=A={tmp_path}/a?.json; B={tmp_path}/b?.json")
    assert code == 3
    lines = err.splitlines()
    assert len(lines) == 2
    assert f"{tmp_path}/a1.json" in lines[0]
    assert "unknown image id: 999" in lines[0]
    assert f"{tmp_path}/b0.json" in lines[1]
    assert "score is not finite" in lines[1]


def test_a_baseline_that_is_not_there(study, tmp_path, capsys):
    code, _, err = call(tmp_path, capsys, f"runs=fpn={study}/a0; bifpn={study}/b0", "baseline=x")
    assert (code, err) == (2, "error: baseline: no arm 'x' -> arms: fpn, bifpn\n")


def test_changed_ground_truth_gives_no_verdict(tmp_path, capsys, coco_root):
    index = read_index(coco_root / "annotations" / "instances_val.json", coco_root / "val")
    for name in ("a", "b"):
        write_run(tmp_path / name, coco_root, seed=0, noise=1.0, start={"data.val": index.digest[::-1]})
    code, _, _ = call(tmp_path, capsys, f"runs=a={tmp_path}/a; b={tmp_path}/b")
    assert code == 3
    assert "is not what it was when the runs were made" in written(tmp_path)["no_verdict"][0]


HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "<script>alert(1)</script>",
    'a,"b"\nc',
    "\x1b[31mred\x1b[0m",
    "\u202eevil",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_harmless_in_the_table_and_the_terminal(name, tmp_path):
    run = RunRecord(name, 0, tmp_path / "p.json", results={"summary": {"AP": 0.5}})
    failure = Failure(name, 1, "failed", f"exit code 1: {name}")
    outcome = Outcome("x", tmp_path, name, "AP", {name: ()}, (run,), (failure,), no_verdict=(f"no run of {name}",))
    (_, row, failed) = csv.reader(io.StringIO(csv_text(outcome, {})))
    assert row[0] == failed[0] == safe_cell(name)
    assert row[0].lstrip()[0] not in "=+-@"
    for line in outcome_lines(outcome):
        assert line.isprintable(), ascii(line)
