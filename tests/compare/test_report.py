"""The report of a study: what it shows, that it is whole, and that no name gets out of its place."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_cases as cases

from fusion_det.compare.outcome import BestEpochs, Outcome
from fusion_det.compare.report.best_part import best_section
from fusion_det.compare.report.page import Page
from fusion_det.compare.report.render import escaped, fence, html, markdown
from fusion_det.compare.report.write import page_of, write_report

VOID = {"meta", "link", "br", "img"}


class Reader(HTMLParser):
    """Checks that elements are closed in order, and collects elements, attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    qualities = {"add": (0.8, 0.1), "aff": (0.9, 0.06), "concat": (0.802, 0.101)}
    return cases.study(tmp_path_factory.mktemp("study"), qualities, images=40)


@pytest.fixture(scope="module")
def page(outcome: Outcome) -> Page:
    return page_of(outcome)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    qualities = dict(zip(cases.HOSTILE, [(0.8, 0.1), (0.9, 0.08), (0.7, 0.1)], strict=True))
    folder = tmp_path_factory.mktemp("hostile")
    return page_of(cases.with_failure(cases.study(folder, qualities, seeds=(0, 1), classes=cases.HOSTILE_CLASSES, images=20, resamples=40)))


def test_numbers_of_the_verdict_table_are_the_comparisons(outcome: Outcome, page: Page) -> None:
    found = outcome.comparison
    assert found is not None
    (table,) = next(s for s in page.sections if s.key == "verdicts").tables
    rows = {row[0].text: row for row in table.rows}
    assert list(rows) == ["add", "aff", "concat"]
    for arm, row in rows.items():
        mean = found.arms[arm]["AP"]
        assert row[5].text == f"{100 * mean.estimate:.2f} ± {100 * mean.seed_deviation:.2f}"
        if arm != "add":
            difference, verdict = found.differences[arm]["AP"], found.verdicts[arm]
            assert row[2].text == f"{100 * difference.estimate:+.2f}"
            assert row[3].text == f"{100 * difference.interval.low:+.2f} to {100 * difference.interval.high:+.2f}"
            assert row[4].text == (f"{verdict.adjusted_p_value:.3f}" if verdict.adjusted_p_value >= 0.001 else "< 0.001")
            assert row[1].text.endswith(verdict.word)
            assert row[7].text == verdict.reason
    assert {v.word for v in found.verdicts.values()} == {"better", "cannot tell"}


def test_html_and_markdown_agree(page: Page) -> None:
    texts, lines = " ".join(Reader(html(page)).texts), markdown(page)
    for answer in page.answers:
        assert answer.text in texts
        assert f"- **{answer.word}**: {escaped(answer.text)}" in lines
    for section in page.sections:
        assert f"## {escaped(section.title)}\n" in lines
        for table in section.tables:
            for cell in (cell for row in table.shown for cell in row):
                assert cell.text in texts
                assert escaped(cell.text) in lines


def test_nothing_is_loaded_and_nothing_runs(hostile: Page, page: Page) -> None:
    for shown in (html(hostile), html(page)):
        reader = Reader(shown)
        names = {name for name, _ in reader.elements}
        assert not names & {"script", "img", "iframe", "object", "embed", "form", "base", "b"}
        for name, attributes in reader.elements:
            assert not [key for key in attributes if key.startswith("on")]
            assert not re.search(r"https?:|//|javascript", attributes.get("href") or attributes.get("src") or ""), name
        policy = next(a["content"] for name, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
        assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        assert "url(" not in shown
        assert "@import" not in shown
        assert len(shown) < 1_000_000


def test_hostile_names_are_shown_as_they_are(hostile: Page) -> None:
    shown = html(hostile)
    texts = Reader(shown).texts
    assert "<script>alert(1)</script>" in texts
    assert "\x1b" not in shown
    lines = markdown(hostile)
    assert "\x1b" not in lines
    table = [line for line in lines.splitlines() if line.startswith("|") and "alert(2)" in line]
    assert table
    outside = re.sub(r"```.*?```", "", lines, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)[<>]", outside.replace("\n> ", "\n").replace("\n>\n", "\n"))
    assert not re.search(r"(?<!\\)\]\(", outside)


def test_markdown_tables_have_as_many_cells_as_columns(hostile: Page) -> None:
    lines = markdown(hostile).splitlines()
    starts = [i for i, line in enumerate(lines) if re.fullmatch(r"\|( -+:? \|)+", line)]
    assert len(starts) > 5
    for start in starts:
        columns, i = lines[start].count("|"), start - 1
        while i < len(lines) and lines[i].startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", lines[i])) == columns, lines[i]
            i += 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", r"a\|b"), ("<i>", r"\<i\>"), ("[x](y)", r"\[x\](y)"), ("a\nb", "a?b"), ("http://x", r"http\://x"), ("www.x", r"www\.x"),
        ("\\|", r"\\\|"), ("*_`#~$", r"\*\_\`\#\~\$"), ("&lt;", r"\&lt;"),
    ],
)  # fmt: skip
def test_markdown_escape(name: str, shown: str) -> None:
    assert escaped(name) == shown


def test_a_code_block_cannot_be_ended() -> None:
    block = fence(("a ``` b", "c\n```"))
    assert block.splitlines() == ["````bash", "a ``` b", "c?```", "````"]


def test_failed_runs_and_no_verdict_stand_first(outcome: Outcome, tmp_path: Path) -> None:
    page = page_of(cases.with_failure(outcome))
    titles = [notice.title for notice in page.notices]
    assert "1 of 10 runs did not finish; they are in no number below" in titles
    assert "out of memory" in " ".join(line for notice in page.notices for line in notice.lines)
    page = page_of(cases.without_verdict(outcome))
    assert any(notice.kind == "stop" and "No verdict" in notice.title for notice in page.notices)
    assert page.answers == ()
    keys = [section.key for section in page.sections]
    assert "verdicts" not in keys
    assert "runs" in keys
    assert "±" not in " ".join(cell.text for s in page.sections for t in s.tables for row in t.rows for cell in row)
    Reader(html(page))
    markdown(page)


def test_one_seed_gets_no_verdict(tmp_path: Path) -> None:
    page = page_of(cases.study(tmp_path, {"add": (0.8, 0.1), "aff": (0.9, 0.06)}, seeds=(0,), images=12, resamples=20, levels=False))
    assert [answer.word for answer in page.answers] == ["none"]
    assert any("One seed" in notice.title for notice in page.notices)
    assert "sd unknown" in html(page)
    assert "better than" not in page.answers[0].text


def test_generated_pictures_are_told_first(page: Page) -> None:
    assert page.notices[0].title == "Generated data"
    assert "no evidence about COCO" in page.notices[0].lines[0]


def test_the_same_outcome_gives_the_same_files(outcome: Outcome) -> None:
    assert write_report(outcome, {}, tensorboard=False) == ["report.html", "report.md"]
    before = [(outcome.folder / name).read_bytes() for name in ("report.html", "report.md")]
    write_report(outcome, {}, tensorboard=False)
    assert before == [(outcome.folder / name).read_bytes() for name in ("report.html", "report.md")]


def test_words_that_the_choice_of_the_epoch_changes_are_told(outcome: Outcome) -> None:
    found = outcome.comparison
    assert found is not None
    assert found.verdicts["aff"].word == "better"
    other = replace(found, verdicts=found.verdicts | {"aff": replace(found.verdicts["aff"], word="same")})
    section = best_section(replace(outcome, best=BestEpochs(other, evaluations=8)), {"add": 0, "aff": 1, "concat": 2})
    assert section is not None
    assert "Verdicts that differ from those at the last epoch: aff (same here, better there)." in section.lead[1:]
    assert [row[1].text for row in section.tables[0].rows] == ["baseline", "≈ same", f"? {found.verdicts['concat'].word}"]
    assert best_section(outcome, {"add": 0}) is None
