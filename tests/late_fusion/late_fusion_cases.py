"""Random candidates, and every late fusion once more as plain loops over lists of dicts, written from the papers alone."""

from __future__ import annotations

import math
from itertools import groupby

import pytest
import torch
import yaml
from torch import Tensor

from fusion_det.config.instantiate import build
from fusion_det.config.tools import default_config_dir
from fusion_det.structures import Detections, RawDetections

FOLDER = default_config_dir() / "late_fusion"
METHODS = sorted(file.stem for file in FOLDER.glob("*.yaml"))


def method(name: str, **changes):
    """The late fusion of that option with ``changes`` of its keys."""
    return build(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) | changes)


def candidates(batch=3, count=60, seed=0, valid=0.85, classes=3, objects=6) -> RawDetections:
    """Boxes scattered around a few objects per image, so that many overlap; all scores differ."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(batch, objects, 2, generator=generator) * 80 + 20
    size = torch.rand(batch, objects, 2, generator=generator) * 30 + 10
    which = torch.randint(0, objects, (batch, count), generator=generator)[..., None].expand(-1, -1, 2)
    middle = centre.gather(1, which) + torch.randn(batch, count, 2, generator=generator) * 3
    half = size.gather(1, which) * torch.exp(0.2 * torch.randn(batch, count, 2, generator=generator)) / 2
    scores = torch.rand(batch, count, generator=generator) * 0.9 + 0.1
    labels = torch.randint(0, classes, (batch, count), generator=generator)
    levels = torch.randint(0, 3, (batch, count), generator=generator)
    boxes = torch.cat([middle - half, middle + half], dim=2).clamp(min=0)
    return RawDetections(boxes, scores, labels, levels, torch.rand(batch, count, generator=generator) < valid)


def raw(boxes, scores, labels=None, levels=None) -> RawDetections:
    """One image from lists."""
    count = len(scores)
    columns = [torch.tensor(values or [0] * count, dtype=torch.int64).reshape(1, count) for values in (labels, levels)]
    given = torch.tensor(boxes, dtype=torch.float32).reshape(1, count, 4), torch.tensor(scores, dtype=torch.float32).reshape(1, count)
    return RawDetections(*given, *columns, torch.ones(1, count, dtype=torch.bool))


def rows(found: Detections, image: int = 0) -> list[dict]:
    """The detections of one image as dicts, in their order."""
    columns = {name: getattr(found, name)[image] for name in ("boxes", "scores", "labels", "levels", "sources")}
    return [
        {"box": columns["boxes"][i].tolist(), "score": columns["scores"][i].item()}
        | {name.removesuffix("s"): int(columns[name][i]) for name in ("labels", "levels", "sources")}
        for i in found.valid[image].nonzero()[:, 0].tolist()
    ]


def assert_same(mine: list[dict], theirs: list[dict], box_tolerance=1e-3, score_tolerance=1e-5) -> None:
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=score_tolerance), (a, b)
        assert all(abs(x - y) <= box_tolerance for x, y in zip(a["box"], b["box"], strict=True)), (a, b)
        assert [a[key] for key in ("label", "level", "source")] == [b[key] for key in ("label", "level", "source")]


# ---- the twins --------------------------------------------------------------------------------------------------------------------


def twin(name: str, sources: list[RawDetections], image: int, options: dict, weights: list[float] | None = None) -> list[dict]:
    """What the method must give for one image; ``options`` are all keys of its YAML."""
    weights = weights or [1.0] * len(sources)
    found = [
        {
            "box": source.boxes[image, i].double().tolist(),
            "score": source.scores[image, i].item() * weights[s] / max(weights),
            "label": int(source.labels[image, i]),
            "level": int(source.levels[image, i]),
            "source": s,
        }
        for s, source in enumerate(sources)
        for i in source.valid[image].nonzero()[:, 0].tolist()
    ]
    inside = _TWINS[name]
    if options.get("per_level"):
        found = _by(found, ("level", "source"), options, lambda group: inside(group, options, {group[0]["source"]: 1.0}))
    shares = {s: weight / max(weights) for s, weight in enumerate(weights)}
    found = _by(found, (), options, lambda group: inside(group, options, shares))
    return sorted(found, key=lambda row: -row["score"])[: options["max_detections"]]


def _by(found, keys, options, function):
    keys = (*keys, *(() if options.get("class_agnostic", True) else ("label",)))

    def key(row):
        return tuple(row[k] for k in keys)

    groups = [list(members) for _, members in groupby(sorted(found, key=key), key)]
    return [row for group in groups for row in function(sorted(group, key=lambda r: -r["score"]))]


def box_area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(one, other):
    shared = box_area([max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])])
    union = box_area(one) + box_area(other) - shared
    return shared / union if union > 0 else 0.0


def mean_box(members, shares):
    total = sum(shares)
    return [sum(share * row["box"][k] for row, share in zip(members, shares, strict=True)) / total for k in range(4)]


def _greedy(group, overlap, threshold):
    kept = []
    for row in group:
        if all(overlap(better["box"], row["box"]) <= threshold for better in kept):
            kept.append(row)
    return kept


def _nms(group, options, shares):
    return _greedy(group, iou, options["iou_threshold"])


def _none(group, options, shares):
    return group


def _diou(group, options, shares):
    def overlap(a, b):
        centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b)]
        diagonal = math.dist((min(a[0], b[0]), min(a[1], b[1])), (max(a[2], b[2]), max(a[3], b[3])))
        return iou(a, b) - ((math.dist(*centres) / diagonal) ** 2 if diagonal else 0.0) ** options["beta"]

    return _greedy(group, overlap, options["threshold"])


def _soft(group, options, shares):
    waiting, done = [dict(row) for row in group], []
    while waiting:
        best = max(waiting, key=lambda row: row["score"])
        waiting = [row for row in waiting if row is not best]
        if best["score"] < options["score_threshold"]:
            break
        done.append(best)
        for row in waiting:
            overlap = iou(best["box"], row["box"])
            if options["method"] == "gaussian":
                row["score"] *= math.exp(-(overlap**2) / options["sigma"])
            elif overlap > options["iou_threshold"]:
                row["score"] *= 1 - overlap
    return done


def _matrix(group, options, shares):
    def f(x):
        return math.exp(-options["sigma"] * x * x) if options["method"] == "gaussian" else 1 - x

    rival = [max([iou(group[k]["box"], group[i]["box"]) for k in range(i)], default=0.0) for i in range(len(group))]
    done = []
    for j, row in enumerate(group):
        decay = min([f(iou(group[i]["box"], row["box"])) / max(f(rival[i]), 1e-7) for i in range(j)], default=1.0)
        if row["score"] * decay >= options["score_threshold"]:
            done.append(row | {"score": row["score"] * decay})
    return done


def _voting(group, options, shares):
    done = []
    for row in _nms(group, options, shares):
        voters = [other for other in group if other is row or iou(row["box"], other["box"]) > options["vote_threshold"]]
        done.append(row | {"box": mean_box(voters, [voter["score"] for voter in voters])})
    return done


def _nmw(group, options, _):
    clusters: list[list[dict]] = []
    for row in group:
        overlaps = [iou(cluster[0]["box"], row["box"]) for cluster in clusters]
        if overlaps and max(overlaps) > options["iou_threshold"]:
            clusters[overlaps.index(max(overlaps))].append(row)
        else:
            clusters.append([row])
    done = []
    for members in clusters:
        best, *others = members
        shares = [best["score"], *(row["score"] * iou(best["box"], row["box"]) for row in others)]
        done.append(best | {"box": mean_box(members, shares)})
    return done


def _wbf(group, options, shares):
    clusters: list[list[dict]] = []
    for row in group:
        fused = [mean_box(members, [m["score"] for m in members]) for members in clusters]
        overlaps = [iou(box, row["box"]) for box in fused]
        if overlaps and max(overlaps) > options["iou_threshold"]:
            clusters[overlaps.index(max(overlaps))].append(row)
        else:
            clusters.append([row])
    done = []
    for members in clusters:
        scores, n, everyone = [m["score"] for m in members], len(members), sum(shares.values())
        inside = sum(shares[m["source"]] for m in members)
        present = sum(shares[s] for s in {m["source"] for m in members})
        score = {
            "avg": sum(scores) / n * min(n, len(shares)) / everyone,
            "avg_overflow": sum(scores) / everyone,
            "max": max(scores) / max(shares.values()),
            "box_and_model_avg": sum(scores) / inside * present / everyone,
            "absent_model_aware_avg": sum(scores) / (inside + everyone - present),
        }[options["confidence"]]
        done.append(members[0] | {"box": mean_box(members, scores), "score": score})
    return done


_TWINS = {
    "nms": _nms, "none": _none, "diou_nms": _diou, "soft_nms": _soft, "matrix_nms": _matrix, "voting": _voting, "nmw": _nmw, "wbf": _wbf,
}  # fmt: skip


def shuffled(source: RawDetections, seed: int = 0) -> RawDetections:
    """The same candidates in another order within each image."""
    order = torch.rand(source.scores.shape, generator=torch.Generator().manual_seed(seed)).argsort(1)

    def moved(values: Tensor) -> Tensor:
        return values.gather(1, order if values.ndim == 2 else order[..., None].expand_as(values))

    return RawDetections(*(moved(getattr(source, name)) for name in ("boxes", "scores", "labels", "levels", "valid")))
