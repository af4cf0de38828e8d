"""Random small data sets with much of what can go wrong in matching: equal scores, equal IoUs, IoUs on a threshold, crowds, empty boxes,
areas on the edge of a range, repeated detections, classes and images without boxes, few detections that count."""

import numpy as np

SIDES = np.array([0, 1, 4, 8, 16, 32, 32, 40, 64, 80, 96, 96, 100, 128, 200])
"""On a coarse grid IoUs are often equal and often 0.5, 0.6, 0.75, ...; 32 x 32 and 96 x 96 are the edges of the area ranges."""


def small_set(seed: int) -> tuple[dict, list[dict], int]:
    """Ground truth, results and ``max_detections``."""
    draw = np.random.default_rng(seed)
    dense = draw.random() < 0.3  # one image, one class, many boxes that compete for the same detections
    image_ids = draw.permutation(50)[: 1 if dense else draw.integers(1, 5)].tolist()
    category_ids = (draw.permutation(20)[: 1 if dense else draw.integers(1, 4)] + 1).tolist()
    coarse = bool(dense or draw.random() < 0.3)
    annotations = [
        {
            "id": number,
            "image_id": int(draw.choice(image_ids)),
            "category_id": int(draw.choice(category_ids)),
            "bbox": (box := _box(draw, coarse)),
            "area": _area(draw, box),
            "iscrowd": int(draw.random() < 0.12),
        }
        for number in range(1, int(draw.integers(0, 16)) + 1)
    ]
    results = [_result(draw, annotations, image_ids, category_ids, coarse) for _ in range(int(draw.choice([0, 5, 20, 60])))]
    results += [dict(results[int(draw.integers(len(results)))]) for _ in range(int(draw.integers(0, 3))) if results]
    truth = {
        "images": [{"id": number} for number in image_ids],
        "categories": [{"id": number, "name": f"class {number}"} for number in category_ids],
        "annotations": annotations,
    }
    return truth, results, int(draw.choice([1, 2, 3, 7, 10, 100, 100, 100]))


def _box(draw: np.random.Generator, coarse: bool) -> list[float]:
    if coarse:
        return [float(v) for v in (*draw.integers(0, 3, 2) * 16, *draw.choice(SIDES, 2))]
    return [float(v) for v in (*draw.uniform(0, 60, 2), *np.exp(draw.uniform(1, 5.5, 2)))]


def _area(draw: np.random.Generator, box: list[float]) -> float:
    """Of the box, of a mask inside it, or one on the edge of an area range or outside of all of them."""
    odd = [32.0**2, 96.0**2, np.nextafter(32.0**2, 0), np.nextafter(96.0**2, 1e9), 0.0, -1.0, 1e10, 2e10]
    return float(draw.choice([box[2] * box[3]] * 6 + [box[2] * box[3] * 0.6] * 6 + odd))


def _result(draw: np.random.Generator, annotations: list[dict], image_ids: list[int], category_ids: list[int], coarse: bool) -> dict:
    box, image, category = _box(draw, coarse), draw.choice(image_ids), draw.choice(category_ids)
    if annotations and draw.random() < 0.75:
        near = annotations[int(draw.integers(len(annotations)))]
        image, category = near["image_id"], near["category_id"]
        steps = draw.choice([0, 0, 0, 8, 16], 4) if coarse else draw.normal(0, 4, 4) * (draw.random() < 0.9)
        box = np.maximum(np.array(near["bbox"]) + steps, 0.0).tolist()
    score = float(draw.integers(1, 10) / 10 if coarse else draw.random())
    return {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score}
