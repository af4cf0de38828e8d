"""The report of a study, written into its folder."""

from __future__ import annotations

from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.arm_cost import costs_of
from fusion_det.compare.report.explain import explain
from fusion_det.compare.report.hparams import FOLDER, write_hparams
from fusion_det.compare.report.make_page import make_page
from fusion_det.compare.report.page import Page
from fusion_det.compare.report.render import html, markdown
from fusion_det.config.files import write_atomic
from fusion_det.errors import FusionDetError

HTML, MARKDOWN = "report.html", "report.md"


def page_of(outcome: Outcome) -> Page:
    """What the report of ``outcome`` says. Reads all predictions again, which takes about as long as evaluating them."""
    return make_page(outcome, explain(outcome), costs_of(outcome))


def write_report(outcome: Outcome, *, tensorboard: bool = True) -> list[str]:
    """Write ``report.html``, ``report.md`` and the TensorBoard entries; the names written. The same outcome gives the same files."""
    page = page_of(outcome)
    try:
        outcome.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(outcome.folder / HTML, html(page).encode())
        write_atomic(outcome.folder / MARKDOWN, markdown(page).encode())
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror or error}", where=str(outcome.folder), mend="choose a folder=DIR") from error
    return [HTML, MARKDOWN, *([f"{FOLDER}/"] if tensorboard and outcome.runs and write_hparams(outcome) else [])]
