"""Writes tide_golden.json: random data sets and what tidecv says of them. Not run by the tests.

In a fresh environment: pip install tidecv==1.0.1 && python tests/evaluation/make_tide_golden.py
"""

import json
from pathlib import Path

import numpy as np

SETS = {
    "plain": {"seed": 0},
    "crowds": {"seed": 1, "crowds": 0.3},
    "one_class": {"seed": 2, "classes": 1, "crowds": 0.1},
    "empty_classes": {"seed": 3, "classes": 7, "boxes_of": (1, 2, 4), "images": 4},
    "ties": {"seed": 4, "digits": 1, "crowds": 0.1},
    "many_detections": {"seed": 5, "detections": 60, "images": 4, "maximum": 25},
    "no_detections_in_most": {"seed": 6, "detections": 1.2},
    "all_missed": {"seed": 7, "detections": 6, "near": 0.0, "classes": 3},
    "crowded": {"seed": 8, "images": 3, "classes": 2, "extent": 120, "detections": 40, "crowds": 0.2},
    "thresholds": {"seed": 9, "foreground": 0.75, "background": 0.3, "crowds": 0.1},
    "on_a_grid": {"seed": 10, "grid": 16, "digits": 2, "extent": 100, "classes": 2},
}
"""``on_a_grid`` has boxes on a coarse grid, so that an IoU of exactly 0.5 occurs and boxes repeat."""


def draw_set(
    *, seed, images=8, classes=4, boxes_of=None, detections=20, extent=400, near=0.75, crowds=0.0, digits=4, maximum=100, grid=None, **_
):
    """Ground truth rows [image, class, x, y, w, h, crowd] and detection rows [image, class, x, y, w, h, score], classes from 0."""
    draw = np.random.default_rng(seed)
    snap = (lambda box: [float(max(1, round(v / grid)) * grid) for v in box]) if grid else (lambda box: [round(float(v), 2) for v in box])
    truth, found = [], []
    for image in range(images - 1):  # the last image has no boxes
        for _ in range(int(draw.integers(1, 9))):
            box = [*draw.uniform(0, extent, 2), *np.exp(draw.uniform(np.log(10), np.log(200), 2))]
            label = int(draw.choice(boxes_of) if boxes_of else draw.integers(classes))
            truth.append([image, label, *snap(box), int(draw.random() < crowds)])
    for _ in range(int(detections * images)):
        row = truth[int(draw.integers(len(truth)))]
        if draw.random() < near:
            spread = float(draw.choice([0.02, 0.1, 0.3]))
            x, y, w, h = row[2:6]
            box = [x + w * draw.normal(0, spread), y + h * draw.normal(0, spread), *np.array([w, h]) * np.exp(draw.normal(0, spread, 2))]
            image, label = row[0], row[1] if draw.random() < 0.75 else int(draw.integers(classes))
        else:
            box = [*draw.uniform(0, extent, 2), *np.exp(draw.uniform(np.log(10), np.log(200), 2))]
            image, label = int(draw.integers(images)), int(draw.integers(classes))
        found.append([image, label, *snap(box), round(float(draw.random()), digits)])
    return truth, found


def by_tidecv(truth, found, *, images, foreground, background, maximum):
    """What tidecv says: its own means, AP by class for each repair, and the type of each detection."""
    from tidecv import TIDE, Data
    from tidecv.errors.main_errors import FalsePositiveError

    ground, predictions = Data("ground", max_dets=maximum), Data("predictions", max_dets=maximum)
    for image in range(images):
        ground.add_image(image, str(image))
    for image, label, *box, crowd in truth:
        (ground.add_ignore_region if crowd else ground.add_ground_truth)(image, label, box)
    for image, label, *box, score in found:
        predictions.add_detection(image, label, score, box)
    run = TIDE(foreground, background, TIDE.BOX).evaluate(ground, predictions, name="run")
    repaired = {kind.short_name: run.fix_errors(lambda error, kind=kind: isinstance(error, kind)) for kind in TIDE._error_types}
    repaired["FalsePos"] = run.fix_errors(transform=FalsePositiveError.fix)
    repaired["FalseNeg"] = run.fix_errors(false_neg_dict=run.false_negatives)
    repaired["AP"] = run.ap_data
    kinds = ["" if a.get("used") is None else "correct" if a["used"] else "?" for a in predictions.annotations]
    ignored = [i for i, a in enumerate(predictions.annotations) if "used" in a and a["used"] is None]
    for error in run.errors:
        if hasattr(error, "pred"):
            kinds[error.pred["_id"]] = error.short_name
    return {
        "AP": run.ap,
        **{kind.short_name: value for kind, value in {**run.fix_main_errors(), **run.fix_special_errors()}.items()},
        "per_class": {
            name: {str(label): values.get_ap() for label, values in sorted(data.objs.items()) if not values.is_empty()}
            for name, data in repaired.items()
        },
        "kinds": kinds,
        "ignored": ignored,
        "missed": sorted(error.gt["_id"] for error in run.errors if error.short_name == "Miss"),
    }


def apart(found):
    """The same detections with scores all different: of equal ones the earlier image, then the earlier row, comes first."""
    order = sorted(range(len(found)), key=lambda i: (-found[i][6], found[i][0], i))
    scores = {i: round(1 - (place + 1) / (len(found) + 1), 6) for place, i in enumerate(order)}
    return [[*row[:6], scores[i]] for i, row in enumerate(found)]


if __name__ == "__main__":
    golden = {}
    for name, options in SETS.items():
        truth, found = draw_set(**options)
        settings = {
            "images": options.get("images", 8),
            "foreground": options.get("foreground", 0.5),
            "background": options.get("background", 0.1),
            "maximum": options.get("maximum", 100),
        }
        expected = by_tidecv(truth, found, **settings)
        golden[name] = settings | {"truth": truth, "found": found, "expected": expected}
        if len({row[6] for row in found}) < len(found):
            golden[name]["expected_apart"] = by_tidecv(truth, apart(found), **settings)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(values, separators=(',', ':'))}" for name, values in golden.items())
    Path(__file__).with_name("tide_golden.json").write_text(f'{{"tidecv": "1.0.1", "sets": {{\n{lines}\n}}}}\n')
