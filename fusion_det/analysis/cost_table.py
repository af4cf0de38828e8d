"""The table of tools/benchmark.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion_det.analysis.cost import CONVENTION, Cost
from fusion_det.analysis.speed import NETWORK, WHOLE
from fusion_det.analysis.timing import Times

if TYPE_CHECKING:
    from fusion_det.analysis.benchmark import Measured

WIDTH = 118
NAMED = 12
"""Uncounted operations that the table names; the file has them all."""


def cost_lines(cost: Cost) -> list[str]:
    """Parameters, MACs, FLOPs and activations by part, and what is not in them."""
    unit, letter, digits = (1e9, "G", 3) if cost.total.macs >= 1e9 else (1e6, "M", 2)
    rows = [["", "parameters", "trainable", f"{letter}MAC", f"{letter}FLOP", "activations"]]
    for name, part in {**cost.parts, "total": cost.total}.items():
        numbers = [part.parameters, part.trainable, part.activations]
        parameters, trainable, activations = (f"{number:,}" for number in numbers)
        rows.append([name, parameters, trainable, f"{part.macs / unit:,.{digits}f}", f"{part.flops / unit:,.{digits}f}", activations])
    lines = [*_aligned(rows), f"{CONVENTION}."]
    if cost.proposals is not None:
        lines.append(f"The head was counted at {cost.proposals:,} proposals, as many as it makes of such a picture in prediction.")
    names = [f"{name} {found.elements / 1e6:.2f}" for name, found in cost.uncounted.items()]
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    if names:
        lines += _wrapped(f"Not counted (million numbers put out): {', '.join(names[:NAMED])}{rest}.")
    return lines


def measured_lines(measured: Measured) -> list[str]:
    """Latency, memory and training speed."""
    rows = [["", "median ms", "p95 ms", "fastest ms", "images/s", "rounds", "memory MiB"]]
    for batch, times in measured.latency.items():
        rows.append(_row(f"batch {batch}, {NETWORK}", batch, times[NETWORK], None))
        rows.append(_row(f"batch {batch}, {WHOLE}", batch, times[WHOLE], measured.memory[batch]))
    if (training := measured.training) is not None:
        batch = training.batch_size
        rows.append(_row(f"batch {batch}, training step", batch, training.step, training.memory))
    return [*_aligned(rows), *(line for note in measured.notes for line in _wrapped(note))]


def _row(name: str, batch: int, times: Times, memory: int | None) -> list[str]:
    milliseconds = [f"{1e3 * value:,.2f}" for value in (times.median, times.p95, times.fastest)]
    return [name, *milliseconds, f"{batch / times.median:,.1f}", str(times.rounds), _mebibytes(memory)]


def _mebibytes(number: int | None) -> str:
    return "" if number is None else f"{number / 2**20:,.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width each, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
