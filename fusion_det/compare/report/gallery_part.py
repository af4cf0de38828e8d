"""Pictures in which the arms differ most."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from fusion_det.compare.insight.gallery import Gallery, Shown
from fusion_det.compare.report.page import Cell, Chart, Column, Section, Table, text
from fusion_det.compare.report.svg import WIDTH, drawing, element, group, label
from fusion_det.compare.report.words import counted, listed, shortened

_GAP, _TOP, _TALLEST = 8.0, 18.0, 260.0


def gallery_section(baseline: str, places: Mapping[str, int], gallery: Gallery | None) -> Section | None:
    """What only one of both finds: counts of all pictures, and some of them."""
    if gallery is None or not (gallery.found or gallery.why):
        return None
    lead = ["At IoU 0.5, with the score threshold that gives each run its best F1."]
    if gallery.shown:
        lead.append(
            "The pictures are those in which arm and baseline differ most, and so show how they differ, not how often. Ground truth: thin "
            "white, and thick yellow and dashed where it was missed. Detections: blue if right, else orange."
        )
    if gallery.why:
        lead.append(f"No pictures are shown: {gallery.why}.")
    charts = tuple(Chart(_drawn(number, baseline, shown), _caption(baseline, shown)) for number, shown in enumerate(gallery.shown))
    return Section(
        "gallery", "What only one of both finds", tuple(lead), charts, tables=_tables(baseline, places, gallery) if gallery.found else ()
    )


def _tables(baseline: str, places: Mapping[str, int], gallery: Gallery) -> tuple[Table, ...]:
    heads = (
        Column("arm"), Column("only the arm", "number"), Column(f"only {baseline}", "number"), Column("wrong detections", "number")
    )  # fmt: skip
    counted_rows = tuple(
        (
            Cell(arm, arm=places[arm]),
            Cell(f"{n.more:.1f}"),
            Cell(f"{n.less:.1f}"),
            Cell(f"{n.wrong:.1f}", note=f"{baseline} {n.wrong_base:.1f}"),
        )
        for arm, n in gallery.found.items()
    )
    note = "Per seed, mean over the paired seeds, all pictures. Who shows more detections finds more, and is wrong more often."
    counts = Table(heads, counted_rows, "Objects that one of both finds and the other does not", note)
    if not gallery.shown:
        return (counts,)
    columns = (Column("picture", "long"), Column("arm"), Column("seed", "number"), Column("found only by"), Column("objects", "long"))
    rows = tuple(text(s.name, s.arm, str(s.seed), s.arm if s.gained else baseline, listed(list(s.differing), 12)) for s in gallery.shown)
    return (counts, Table(columns, rows, "The pictures that are shown", folded=True))


def _caption(baseline: str, shown: Shown) -> str:
    one, other = (shown.arm, baseline) if shown.gained else (baseline, shown.arm)
    return f"{one} finds {counted(len(shown.differing), 'object')} that {other} misses (seed {shown.seed}, {shown.name})."


def _drawn(number: int, baseline: str, shown: Shown) -> Markup:
    """Two panels side by side; the picture is in the page once."""
    scale = min((WIDTH - _GAP) / 2 / shown.size[0], _TALLEST / shown.size[1])
    width, height = (scale * side for side in shown.size)
    picture = f"picture-{number}"
    parts: list[Markup] = []
    for panel, arm in enumerate((baseline, shown.arm)):
        left = panel * (width + _GAP)
        if panel == 0:
            sizes = {"width": width, "height": height}
            parts.append(element("image", id=picture, href=shown.uri, x=0.0, y=_TOP, preserveAspectRatio="none", **sizes))
        else:
            parts.append(element("use", href=f"#{picture}", x=left))
        parts.append(label(left + 2, 13, shortened(arm, 22), "name", hint=arm))
        for box, name, *found in shown.truth:
            kind, state = ("truth", "found") if found[panel] else ("missed", "missed")
            parts.append(_box(box, scale, left, kind, f"{name}, {state} by {arm}"))
        for box, name, score, right in shown.panels[panel]:
            parts.append(_box(box, scale, left, "right" if right else "wrong", f"{arm}: {name} {score:.2f}"))
    return drawing(_TOP + height + 2, _caption(baseline, shown), *parts)


def _box(box: tuple[float, ...], scale: float, left: float, kind: str, hint: str) -> Markup:
    x, y, width, height = (scale * value for value in box)
    shape = {"x": left + x, "y": _TOP + y, "width": max(width, 0.5), "height": max(height, 0.5)}
    return group(f"seen {kind}", element("rect", **shape), hint=hint)
