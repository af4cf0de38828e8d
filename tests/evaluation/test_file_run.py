"""``tools/evaluate.py gt= dt=``: two files in, the numbers out, every fault told with its file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from coco_cases import HIT, one_box
from test_coco_metrics import random_case

from fusion_det.config.cli import main
from fusion_det.evaluation.coco_metrics import evaluate_boxes

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path):
    """Writes the two files and gives the words of the command line."""

    def write(truth, results) -> list[str]:
        (tmp_path / "truth, 1.json").write_text(truth if isinstance(truth, str) else json.dumps(truth))
        (tmp_path / "found.json").write_text(results if isinstance(results, str) else json.dumps(results))
        return [f"gt={tmp_path}/truth, 1.json", f"dt={tmp_path}/found.json"]

    return write


@pytest.mark.parametrize("backend", ["array", "pycocotools"])
def test_results_beside_the_predictions(files, tmp_path, backend):
    truth, results = random_case(0)
    foreign = [record | {"id": n, "area": 3.0, "segmentation": []} for n, record in enumerate(results)]
    assert main("evaluate", [*files(truth, foreign), f"backend={backend}", "curves=true", "max_detections=5"]) == 0
    folder = tmp_path / "evaluate-found"
    written = json.loads((folder / "results.json").read_text())
    expected = evaluate_boxes(truth, results, max_detections=5)
    assert written["finished"] is True
    assert {key: written[key] for key in expected.as_dict()} == json.loads(json.dumps(expected.as_dict()))
    assert (written["backend"], written["predictions"]) == (backend, f"{tmp_path}/found.json")
    assert (folder / "curves.csv").read_text() == expected.curves.csv()


def test_without_torch_in_a_process_of_its_own(files, tmp_path):
    code = "import sys; from fusion_det.config.cli import main; code = main('evaluate'); sys.exit(9 if 'torch' in sys.modules else code)"
    command = [sys.executable, "-c", code, *files(one_box(), [HIT]), "expect.AP=[0.5,0.1]", f"output={tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)
    assert done.returncode == 4
    assert "AP is 1.0000, expected 0.5 +- 0.1" in done.stderr
    assert "1 images, 1 boxes, 1 detections" in done.stdout
    assert json.loads((tmp_path / "out" / "results.json").read_text())["summary"]["APm"] == pytest.approx(1)


def test_no_detections_is_zero_with_a_warning(files, tmp_path, caplog):
    assert main("evaluate", files(one_box(), [])) == 0
    written = json.loads((tmp_path / "evaluate-found" / "results.json").read_text())
    assert (written["summary"]["AP"], written["warnings"]) == (0, ["there are no detections: every number is 0"])


@pytest.mark.parametrize(
    ("truth", "results", "words"),
    [
        (one_box(), [HIT, HIT | {"score": 0.1}, HIT], ["found.json[2] (image 7)", "1 detections are given twice, the first repeats [0]"]),
        (one_box(), [HIT | {"image_id": 8}], ["found.json on", "1 of 1 detections have an unknown image id: 8"]),
        (one_box(), '[{"image_id": 7, "category_id": 3, "bbox": [0, 0, NaN, 1], "score": 1}]', ["found.json[0] (image 7)", "not finite"]),
        (one_box(), [HIT | {"bbox": [0, 0, 1e200, 1e200]}], ["found.json[0]", "box is too large"]),
        (one_box(), [HIT | {"bbox": [0, 0, 1e-200, 1e-200]}], ["found.json[0]", "box is too small"]),
        (one_box(), one_box(), ["found.json: expected a list of detections, got dict", "not a ground-truth file"]),
        ([HIT], [HIT], ["truth, 1.json: this is a COCO results file"]),
        (one_box(bbox=[0, 0, -1, 1]), [HIT], ["truth, 1.json: ground truth annotation 1 (image 7): bbox has a negative width"]),
        (one_box(image_id=8), [HIT], ["annotations have an unknown image id: 8"]),
        ({**one_box(), "images": [{"id": 7}, {"id": 7}]}, [HIT], ["1 image ids occur more than once: 7"]),
        ({**one_box(), "images": [{"id": 2**63}]}, [], ["1 image ids are not integers"]),
        ("{", [HIT], ["truth, 1.json", "JSON"]),
        (one_box(), "[", ["found.json: not whole JSON"]),
        (one_box(), "", ["found.json: the predictions file is empty"]),
    ],
)
def test_faults_name_the_file_and_exit_with_3(files, tmp_path, capsys, truth, results, words):
    assert main("evaluate", files(truth, results)) == 3
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "evaluate-found").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to measure -> add checkpoint=FILE, or gt=ANNOTATIONS.json dt=PREDICTIONS.json"),
        (["gt={gt}"], "dt is missing"),
        (["dt={gt}"], "gt is missing"),
        (["gt={gt}", "dt={gt}", "checkpoint={gt}"], "checkpoint and gt=, dt= at once"),
        (["gt={gt}", "dt={gt}", "images={folder}", "weights=[1]"], "weights, images and gt=, dt= at once"),
        (["gt={gt}", "dt=/nowhere.json"], "dt: no such file or folder: /nowhere.json"),
        (["gt={gt}", "dt={gt}", "max_detections=0"], "max_detections"),
        (["gt={gt}", "dt={gt}", "backend=other"], "backend"),
    ],
)
def test_usage_exits_with_2(files, tmp_path, capsys, words, told):
    files(one_box(), [HIT])
    names = {"gt": f"{tmp_path}/truth, 1.json", "folder": tmp_path}
    assert main("evaluate", [word.format(**names) for word in words]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(files, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert main("evaluate", [*files(one_box(), [HIT]), f"output={tmp_path}/taken"]) == 1
    assert "taken: cannot write" in capsys.readouterr().err
