"""tools/evaluate.py levels=: the ablation is of the detector, data and late fusion that were evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_checkpoint import tiny_state

from fusion_det.analysis.level_reliance import CAVEAT
from fusion_det.config.cli import main
from fusion_det.engine.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("levels") / "a.pt"
    save_checkpoint(path, tiny_state(coco_root, 1))
    return path


@pytest.mark.parametrize(
    ("part", "names", "more"),
    [("neck", ["P3", "P4", "P5"], ["late_fusion=wbf", "late_fusion.max_detections=20"]), ("backbone", ["C3", "C4", "C5"], [])],
)
def test_levels_json_belongs_to_the_evaluation(checkpoint, tmp_path, caplog, part, names, more):
    caplog.set_level("INFO", logger="fusion_det")
    words = [f"checkpoint={checkpoint}", f"output={tmp_path}", "device=cpu", "workers=0", "split=train", f"levels={part}", *more]
    assert main("evaluate", words) == 0
    found, results = (json.loads((tmp_path / name).read_text()) for name in ("levels.json", "results.json"))
    assert (found["part"], found["levels"], found["caveat"]) == (part, names, CAVEAT)
    assert len(found["variants"]) == 4 * len(names)
    assert found["untouched"]["AP"] == pytest.approx(results["summary"]["AP"], abs=1e-12)
    assert found["untouched"]["AP"] > 0
    assert f"levels of the {part} replaced" in caplog.text
    assert "predictions.json, results.json, levels.json" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gt={a}", "dt={a}", "levels=neck"], "levels and gt=, dt= at once"),
        (["checkpoint=[{a},{b}]", "levels=neck"], "give one checkpoint, and no tta"),
        (["checkpoint={a}", "tta.flip=true", "levels=neck"], "give one checkpoint, and no tta"),
        (["checkpoint={a}", "levels=head"], "levels: got 'head', expected"),
    ],
)
def test_what_has_no_levels_to_replace_is_refused_in_one_line(checkpoint, capsys, words, said):
    names = {"a": checkpoint, "b": checkpoint.with_name("b.pt")}
    names["b"].write_bytes(checkpoint.read_bytes())
    assert main("evaluate", [word.format(**names) for word in words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
