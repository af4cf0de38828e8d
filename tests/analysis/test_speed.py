"""Clocks, memory and what is fed to a detector under measurement."""

from __future__ import annotations

import mmap
import time

import pytest
import torch

from fusion_det.analysis.made_up import random_batch, random_candidates
from fusion_det.analysis.peak_memory import MemoryMeter
from fusion_det.analysis.timing import Clock, Times
from fusion_det.late_fusion.nms import NMS

CPU = torch.device("cpu")


def test_times_are_summed_up():
    times = Times.of([0.001 * n for n in range(100, 0, -1)])
    assert times == pytest.approx((0.0505, 0.095, 0.001, 100))
    assert Times.of([2.0]) == (2.0, 2.0, 2.0, 1)
    assert times.as_dict()["p95_ms"] == pytest.approx(95)


def test_works_take_turns_after_a_warm_up():
    calls = []
    times = Clock(CPU, warmup=2, rounds=4).alternate({"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.003))})
    assert calls == ["a", "b"] * 6
    assert times["a"].rounds == times["b"].rounds == 4
    assert times["a"].median < 0.003 <= times["b"].fastest


def test_no_round_begins_after_the_time_is_up_but_a_few_are_done():
    assert Clock(CPU, warmup=0, rounds=50, seconds=0.0).alternate({"a": lambda: None})["a"].rounds == 5
    assert Clock(CPU, warmup=0, rounds=3, seconds=0.0).alternate({"a": lambda: None})["a"].rounds == 3


def test_the_peak_is_seen_although_it_is_over():
    def fresh_pages():  # from the system, not out of what the allocator kept of earlier tests
        with mmap.mmap(-1, 40 * 2**20) as pages:
            pages.write(b"1" * len(pages))

    meter = MemoryMeter(CPU)
    small = meter.peak_of(lambda: None)
    large = meter.peak_of(fresh_pages)
    after = meter.peak_of(lambda: None)
    if None in (small, large, after):
        pytest.skip("this system does not tell the peak")
    assert large - small > 35 * 2**20
    assert large - after > 35 * 2**20


def test_made_up_pictures_hold_what_is_asked_for():
    images, targets = random_batch(2, (64, 96), 5, 3)
    assert images.pixels.shape == (2, 3, 64, 96)
    assert images.sizes.tolist() == [[64, 96]] * 2
    assert targets.boxes.shape == (2, 5, 4)
    assert targets.valid.all()
    assert not targets.crowd.any()
    assert (targets.boxes[..., 2:] - targets.boxes[..., :2] >= torch.tensor([96, 64]) * 0.049).all()
    assert (targets.boxes >= 0).all()
    assert (targets.boxes <= torch.tensor([96.0, 64.0, 96.0, 64.0])).all()
    again, _ = random_batch(2, (64, 96), 5, 3)
    assert torch.equal(again.pixels, images.pixels)


def test_made_up_candidates_leave_about_one_detection_an_object():
    found = random_candidates(2, 1000, (320, 320), objects=7, num_classes=80, levels=3)
    assert found.valid.all()
    assert int(found.levels.max()) == 2
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 320).all()
    kept = NMS(iou_threshold=0.5, max_detections=100, class_agnostic=False)([found]).valid.sum(1)
    assert (kept >= 7).all()
    assert (kept <= 35).all()
