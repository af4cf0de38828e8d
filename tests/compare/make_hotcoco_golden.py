"""Writes hotcoco_golden.json: hotcoco's bootstrap of two random runs. Not run by the tests.

In an environment with this package: pip install hotcoco==1.3.0 && python tests/compare/make_hotcoco_golden.py
"""

import json
from pathlib import Path

import hotcoco
import numpy as np
from test_hotcoco import REPLICATES, two_runs


def main() -> None:
    truth, runs = two_runs()
    ground, evaluations = hotcoco.COCO(truth), []
    for run in runs:
        rows = np.column_stack([run.image_ids, run.boxes, run.scores, run.category_ids]).astype(float)
        evaluation = hotcoco.COCOeval(ground, ground.load_res(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluations.append(evaluation)
    found = hotcoco.compare(*evaluations, n_bootstrap=REPLICATES, seed=7)
    kept = {name: {"delta": found["deltas"][name], **found["ci"][name]} for name in found["metric_keys"]}
    Path(__file__).with_name("hotcoco_golden.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
