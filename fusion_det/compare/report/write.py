"""The report of a study, written into its folder."""

from __future__ import annotations

from collections.abc import Mapping

from fusion_det.compare.insight.gather import Insights, gather_insights
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.arm_cost import ArmCost, costs_of
from fusion_det.compare.report.explain import explain
from fusion_det.compare.report.hparams import FOLDER, write_hparams
from fusion_det.compare.report.make_page import make_page
from fusion_det.compare.report.page import Page
from fusion_det.compare.report.render import html, markdown
from fusion_det.config.files import write_atomic
from fusion_det.errors import FusionDetError

HTML, MARKDOWN = "report.html", "report.md"


def page_of(outcome: Outcome, *, look: bool = False) -> Page:
    """What the report of ``outcome`` says. Reads all predictions again, which takes about as long as evaluating them.

    ``look``: at the trained detectors too, as far as their checkpoints are there; what that gives is kept in the study's folder.
    """
    return make_page(outcome, explain(outcome), costs_of(outcome), gather_insights(outcome) if look else Insights())


def write_report(outcome: Outcome, costs: Mapping[str, ArmCost], *, look: bool = False, tensorboard: bool = True) -> list[str]:
    """Write ``report.html``, ``report.md`` and the TensorBoard entries; the names written. The same outcome gives the same files.

    ``costs`` are those of :func:`fusion_det.compare.report.arm_cost.costs_of`. With ``look`` (see :func:`page_of`) a report
    without it is written first, so that there is one if that is cut short.
    """
    explained = explain(outcome)
    _write(outcome, make_page(outcome, explained, costs, Insights()))
    if look:
        _write(outcome, make_page(outcome, explained, costs, gather_insights(outcome)))
    return [HTML, MARKDOWN, *([f"{FOLDER}/"] if tensorboard and outcome.runs and write_hparams(outcome) else [])]


def _write(outcome: Outcome, page: Page) -> None:
    try:
        outcome.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(outcome.folder / HTML, html(page).encode())
        write_atomic(outcome.folder / MARKDOWN, markdown(page).encode())
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror or error}", where=str(outcome.folder), mend="choose a folder=DIR") from error
