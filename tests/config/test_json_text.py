"""The fast parser gives what the standard library gives, and its errors."""

from __future__ import annotations

import json
import math

import pytest

from fusion_det.config.json_text import parse_json

TEXTS = [
    "[]", " {} ", '{"a": 1, "a": 2}', "[1, 1.0, -0.0, 1e3, 1E-400, 123456789012345678901234567890, 0.1, 2.5e-324, 1.7976931348623157e308]",
    '["\\u00e9\\ud83d\\ude00", "é😀", "\\n"]', '{"\\ud800": "\\udc00"}', "[true, false, null]", "[[[[[[1]]]]]]", "[0.30000000000000004]",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_same_as_the_standard_library(text):
    standard = repr(json.loads(text))  # repr keeps 1 and 1.0, 0.0 and -0.0 apart
    assert repr(parse_json(text)) == standard
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert repr(parse_json(text.encode(encoding))) == standard


def test_not_numbers():
    values = parse_json("[NaN, Infinity, -Infinity]")
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize("text", ["", "[1,", '{"a": }', "[1] x", "{'a': 1}", "[01]", '["\t"]'])
def test_same_errors(text):
    with pytest.raises(json.JSONDecodeError) as ours:
        parse_json(text)
    with pytest.raises(json.JSONDecodeError) as standard:
        json.loads(text)
    assert str(ours.value) == str(standard.value)


def test_deep_nesting_is_a_recursion_error():
    with pytest.raises(RecursionError):
        parse_json(100_000 * "[" + 100_000 * "]")
