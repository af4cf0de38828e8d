"""Every parameter count that a paper or a reference code gives, and the page that shows them; ``pytest -s`` prints the table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def counts():
    """The script benchmarks/neck_parameters.py as a module."""
    spec = importlib.util.spec_from_file_location("neck_parameters", BENCHMARKS / "neck_parameters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("group", "least"), [("published_rows", 14), ("layer_rows", 12)])
def test_counts_are_those_that_others_give(counts, group, least):
    rows = getattr(counts, group)()
    sys.stdout.write("\n" + "\n".join(f"{row.part:<58} {row.ours:>12,} {row.published:>12}  {row.source}" for row in rows) + "\n")
    assert len(rows) >= least
    wrong = [row for row in rows if not row.agrees]
    assert not wrong


def test_a_difference_is_seen(counts):
    row = counts.Row("", "", 3_344_384, "3.344 M", "")
    assert row.agrees
    assert not row._replace(ours=3_345_384).agrees
    assert not row._replace(published="3,344,383").agrees
    assert row._replace(published="3,344,384").agrees
    assert row._replace(ours=30_353_960, published="30.3 M").agrees  # a paper that cut digits off
    assert not row._replace(ours=30_453_960, published="30.3 M").agrees


def test_the_page_is_what_the_script_writes(counts):
    assert (BENCHMARKS / "neck_parameters.md").read_text(encoding="utf-8") == counts.page(), "write it again, as its first line says"
