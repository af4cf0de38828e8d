"""A page as HTML that needs nothing but itself, and as Markdown. Everything that is not written here is escaped."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from fusion_det.compare.report.page import Page
from fusion_det.compare.report.svg import sign
from fusion_det.compare.report.words import SIGNS
from fusion_det.evaluation.box_metrics import printable

_MARKS = re.compile(r"([\\`*_\[\]<>|#!~&@$])")
_ADDRESS = re.compile(r"(?i)(?<=[a-z])(:)(?=//)|(?<=www)(\.)")


def html(page: Page) -> str:
    """One file without scripts, links to elsewhere or anything to load."""
    environment = _environment(autoescape=True)
    return environment.get_template("report.html.j2").render(page=page, sign=sign, signs=SIGNS, style=Markup(_template("report.css")))


def markdown(page: Page) -> str:
    """The same words and tables for terminals and repositories."""
    lines = _environment(autoescape=False).get_template("report.md.j2").render(page=page, md=escaped, fence=fence)
    return re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n"


def escaped(words: str) -> str:
    """``words`` as Markdown that shows just these letters: no emphasis, link, HTML, column or formula."""
    return _ADDRESS.sub(r"\\\1\2", _MARKS.sub(r"\\\1", printable(words)))


def fence(lines: tuple[str, ...]) -> str:
    """``lines`` as a code block that none of them can end."""
    shown = [printable(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall(r"`+", line)), default=0)
    marks = "`" * max(3, longest + 1)
    return "\n".join([f"{marks}bash", *shown, marks])


def _clean(value: Any) -> Any:
    """For every value that a template prints: markup of ours as it is, all else without control letters."""
    return value if isinstance(value, Markup) else printable(str(value))


def _environment(*, autoescape: bool) -> Environment:
    names = ("report.html.j2",) if autoescape else ("report.md.j2",)
    return Environment(
        loader=DictLoader({name: _template(name) for name in names}), autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_clean if autoescape else None,
    )  # fmt: skip


@cache
def _template(name: str) -> str:
    return (resources.files("fusion_det.compare.report") / "templates" / name).read_text(encoding="utf-8")
