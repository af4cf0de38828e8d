"""The progress of a run: right forecast, a bar only on a terminal, the same numbers in plain lines elsewhere."""

import io
import logging

import pytest

from fusion_det.engine import progress as module
from fusion_det.engine.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(module.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_forecast_and_speed(clock, caplog):
    caplog.set_level(logging.INFO)
    progress = Progress(epochs=3, steps_per_epoch=10, stream=io.StringIO())
    assert progress.seconds_left() is None
    clock.now += 60  # the first step compiles
    progress.advance(16)
    assert progress.seconds_left() is None
    progress.report({})
    for _ in range(10):
        clock.now += 2
        progress.advance(16)
    assert progress.seconds_left() == pytest.approx(2 * 19)
    assert progress.report({"train/loss": 1.23456, "train/loss_box": 0.5}) == pytest.approx(8)
    assert caplog.messages[-1] == "epoch 2/3, step 11/30: loss 1.235 loss_box 0.5 | 8.0 images/s | 0:00:38 left"
    clock.now += 100
    progress.skip_time(100)
    clock.now += 2
    progress.advance(16)
    assert progress.report({}) == pytest.approx(8)
    assert progress.seconds_left() == pytest.approx(122 / 11 * 18)
    progress.close()


def test_resume_counts_from_where_it_was(clock, caplog):
    caplog.set_level(logging.INFO)
    progress = Progress(epochs=2, steps_per_epoch=10, first_step=10, stream=io.StringIO())
    for _ in range(3):
        clock.now += 1
        progress.advance(4)
    progress.report({})
    assert caplog.messages == ["epoch 2/2, step 13/20:  | 4.0 images/s | 0:00:07 left"]


@pytest.mark.parametrize("no_color", ["", "1"])
def test_bar_on_a_terminal(monkeypatch, caplog, no_color):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("COLUMNS", "100")
    caplog.set_level(logging.INFO)
    stream = Terminal()
    with Progress(epochs=2, steps_per_epoch=4, stream=stream) as progress:
        for _ in range(8):
            progress.advance(2)
        progress.report({"train/loss": 0.25})
    text = stream.getvalue()
    assert "epoch 1/2" in text
    assert "epoch 2/2" in text
    assert "loss 0.25" in text
    assert "100%" in text
    assert ("\x1b[32m" in text) is (no_color == "")
    assert caplog.messages == []


def test_no_bar_elsewhere():
    stream = io.StringIO()
    with Progress(epochs=1, steps_per_epoch=2, stream=stream) as progress:
        progress.advance(1)
        progress.report({})
    assert stream.getvalue() == ""
    with pytest.raises(ValueError, match="steps >= 1"):
        Progress(epochs=1, steps_per_epoch=0)


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (59.6, "0:01:00"), (3661, "1:01:01"), (90061, "1d 01:01:01")])
def test_clock(seconds, text):
    assert module._clock(seconds) == text
