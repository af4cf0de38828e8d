"""Numbers and fixed words of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusion_det.compare.intervals import Interval
from fusion_det.compare.report.page import Style

STYLES: dict[str, Style] = {"better": "better", "worse": "worse", "same": "same", "cannot tell": "unsure", "none": "none"}
SIGNS = {"better": "▲", "worse": "▼", "same": "≈", "cannot tell": "?", "none": "–", "not defined": "–"}
"""Before a verdict's word, so that no reader needs its colour."""
GLOSSARY = (
    (
        "better, worse",
        "The interval of the difference, widened for the number of arms (Holm), excludes 0. It may still be too small to matter.",
    ),
    ("same", "That interval lies inside the margin: whatever the difference is, it is too small to matter."),
    ("cannot tell", "Neither: the study is too small for an answer. It is not the same as no difference."),
    ("none", "No verdict is possible: with one seed nobody knows what another training run would give, or the predictions are identical."),
    ("margin", "The difference that was called too small to matter before the study."),
    ("interval", "Where the true difference may lie, with both sources of noise: other training seeds and other test images."),
    ("adjusted p", "How often noise alone would give a difference as large, adjusted for the number of arms (Holm)."),
    (
        "q",
        "An adjusted p for a long list such as classes (Benjamini and Hochberg): the share of false findings among those at or below it.",
    ),
    ("sd", "Standard deviation between the training seeds of an arm."),
    ("seed", "One training run. Runs of one seed share their data order and the first weights of what the arms have in common."),
    ("AP", "COCO average precision over IoU 0.50 to 0.95, times 100; S, M and L are small, medium and large objects."),
    ("FLOPs", "Floating-point operations of one picture forward; 1 multiply-accumulate counts as 2."),
    (
        "activations",
        "Numbers that convolutions and linear layers put out for one picture: what has to be written to memory and read again.",
    ),
)
SHORT = 20
_OF_RUNS = ("seed=", "run_dir=", "resume=")


def percent(value: float | None, digits: int = 2) -> str:
    """0.1234 as 12.34; a dash for what is not defined."""
    return "-" if value is None or value != value else f"{100 * value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """The same with its sign."""
    return "-" if value is None or value != value else f"{100 * value:+.{digits}f}"


def span(interval: Interval | None, digits: int = 2) -> str:
    """Both ends of the interval of a difference, times 100."""
    return "-" if interval is None else f"{signed(interval.low, digits)} to {signed(interval.high, digits)}"


def plain_span(interval: Interval | None, digits: int = 2) -> str:
    """Both ends of the interval of a mean, times 100."""
    return "-" if interval is None else f"{percent(interval.low, digits)} to {percent(interval.high, digits)}"


def probability(value: float | None) -> str:
    """A p-value; a dash for none."""
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def with_deviation(mean: float | None, deviation: float | None, digits: int = 2) -> str:
    """Mean and standard deviation over seeds."""
    return percent(mean, digits) if deviation is None else f"{percent(mean, digits)} ± {percent(deviation, digits)}"


def quantity(value: float | None) -> str:
    """A large number with K, M, G or T."""
    if value is None:
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}" if abs(value) < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:g}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def reasons(what: str, why: Mapping[str, str]) -> list[str]:
    """A sentence for each reason why ``what`` is not known, with its arms."""
    arms: dict[str, list[str]] = {}
    for arm, reason in why.items():
        arms.setdefault(reason, []).append(arm)
    return [f"The {what} of {listed(names)} were not looked at: {reason}." for reason, names in arms.items()]


def counted(number: int, thing: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def shortened(name: str, most: int = SHORT) -> str:
    """A name that fits into a chart."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def own_words(arms: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """What makes each arm. Given runs tell the whole of their commands: what all share, and names of runs, is left out."""
    whole = any(word.startswith(_OF_RUNS) for words in arms.values() for word in words)
    if not whole:
        return {arm: tuple(words) for arm, words in arms.items()}
    shared = set.intersection(*(set(words) for words in arms.values()))
    return {arm: tuple(word for word in words if word not in shared and not word.startswith(_OF_RUNS)) for arm, words in arms.items()}
