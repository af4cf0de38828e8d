"""FLOPs of whole detectors beside published ones: ``python benchmarks/detector_cost.py --out benchmarks/detector_cost.md``.

Nothing is run: everything is counted on tensors without memory, in seconds. ``tests/analysis/test_cost.py`` asserts rows of it.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fusion_det.analysis.cost import CONVENTION, Cost, cost_of
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool

R50 = "backbone=fusion_resnet backbone.block=bottleneck backbone.depths=[3,4,6,3]"
FPN = f"{R50} neck=fpn neck.extra.count=2 neck.extra.kind=conv_on_output"
WORDS = {
    "RetinaNet": f"{FPN} head=retinanet",
    "FCOS": f"{FPN} head=fcos",
    "Faster R-CNN": f"{R50} backbone.first_stride=4 neck=fpn neck.extra.count=1 head=faster_rcnn",
    "SSD300": "backbone=vgg16 neck=ssd neck.widths=1.0 neck.extra.widths=[512,256,256,256] neck.extra.unpadded=2 head=ssd",
}
"""torchvision's detectors in our words, as in docs/parity.md; its classes: 91 with background, which softmax heads have besides ours."""
COUNTED = "torch's counter on torchvision's model"
PAGE = "torchvision's page of weights, in GMAC"
BOXES = "head.rpn.count_test=512"


class Row(NamedTuple):
    """One comparison."""

    model: str
    more: str
    """Further words."""
    size: tuple[int, int]
    published: float
    """GFLOP of one picture."""
    source: str

    @property
    def cost(self) -> Cost:
        """Ours."""
        classes = 91 if self.model in ("RetinaNet", "FCOS") else 90
        return cost_of(config(f"{WORDS[self.model]} {self.more}"), classes, self.size)


ROWS = [
    Row("RetinaNet", "", (320, 320), 48.5, COUNTED),
    Row("RetinaNet", "", (640, 640), 194, COUNTED),
    Row("RetinaNet", "", (800, 1344), 509, COUNTED),
    Row("RetinaNet", "", (800, 800), 2 * 151.54, PAGE),
    Row("FCOS", "", (320, 320), 41.1, COUNTED),
    Row("FCOS", "", (640, 640), 164, COUNTED),
    Row("FCOS", "", (800, 1344), 431, COUNTED),
    Row("FCOS", "", (800, 800), 2 * 128.207, PAGE),
    Row("Faster R-CNN", BOXES, (320, 320), 53.1, f"{COUNTED}, in training"),
    Row("Faster R-CNN", BOXES, (640, 640), 168, f"{COUNTED}, in training"),
    Row("Faster R-CNN", BOXES, (800, 1344), 418, f"{COUNTED}, in training"),
    Row("Faster R-CNN", "", (800, 800), 2 * 134.38, PAGE),
    Row("SSD300", "", (300, 300), 69.7, COUNTED),
    Row("SSD300", "", (300, 300), 2 * 34.858, PAGE),
]
NOTES = """
Faster R-CNN: the published counts of one forward pass in training have 512 boxes per picture; the page's is of prediction, 1,000 boxes, of
28.7 MFLOP each. Ours is counted in prediction, so `head.rpn.count_test=512` stands in for the former. torchvision's page gives GMAC of
one picture of 800 x 800 pixels (300 x 300 for SSD) and calls them GFLOPS.

What differs are the digits that the sources give.
"""


@cache
def config(words: str) -> dict[str, Any]:
    """The whole config that ``words`` choose."""
    settings = load_settings(get_tool("train"), ["experiment=null", *words.split()], default_config_dir())
    plain: dict[str, Any] = settings.plain()
    return plain


def table() -> list[str]:
    """The page's lines."""
    columns = ["detector", "pixels", "backbone", "neck", "head", "ours, GFLOP", "published", "ratio", "source"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in ROWS:
        cost = row.cost
        parts = [f"{part.flops / 1e9:.2f}" for part in (*cost.parts.values(), cost.total)]
        boxes = f", {cost.proposals:,} boxes" if cost.proposals else ""
        pixels = f"{row.size[0]} x {row.size[1]}"
        ratio = cost.total.flops / 1e9 / row.published
        lines.append("| " + " | ".join([row.model + boxes, pixels, *parts, f"{row.published:g}", f"{ratio:.4f}", row.source]) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    words = "\n".join(f"- {name}: `{text}`" for name, text in WORDS.items())
    head = ["# FLOPs of detectors beside published ones", "", f"{CONVENTION}.", "ResNet-50 throughout, VGG16 in SSD300.", ""]
    page = "\n".join([*head, *table(), NOTES, words, ""])
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
