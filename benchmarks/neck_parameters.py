"""Parameter counts of our parts beside published ones: ``python benchmarks/neck_parameters.py --out benchmarks/neck_parameters.md``.

Everything is built without memory. ``tests/necks/test_parameter_counts.py`` asserts every row and that the page is what this script writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.instantiate import build
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.detector import Detector
from fusion_det.structures import LevelSpec

RESNET50 = [LevelSpec(f"C{i}", 64 << i, 1 << i) for i in (2, 3, 4, 5)]
C3_TO_C5 = RESNET50[1:]
EFFICIENTNET_B0 = [LevelSpec(f"C{i}", c, 1 << i) for i, c in ((3, 40), (4, 112), (5, 320))]
VGG_HYPERNET = [LevelSpec("C0", 64, 1), LevelSpec("C2", 256, 4), LevelSpec("C4", 512, 16)]
VGG_ION = [LevelSpec("C2", 256, 4), LevelSpec("C3", 512, 8), LevelSpec("C4", 512, 16)]
VGG_SSD = [LevelSpec("C3", 512, 8), LevelSpec("C4", 1024, 16)]
HRNET_W32 = [LevelSpec(f"C{i}", 8 << i, 1 << i) for i in (2, 3, 4, 5)]


class Row(NamedTuple):
    """One line of the table."""

    part: str
    config: str
    """Overrides of ``tools/train.py`` beside ``experiment=null``, or what is subtracted."""
    ours: int
    published: str
    """A whole number, or millions with the digits that the source gives."""
    source: str

    @property
    def agrees(self) -> bool:
        """Equal, or as near as the source's last digit allows (some sources cut digits off, some round)."""
        if not self.published.endswith(" M"):
            return self.ours == int(self.published.replace(",", ""))
        number = self.published.removesuffix(" M")
        return abs(self.ours / 1e6 - float(number)) < 10 ** -len(number.partition(".")[2])


def count(module: nn.Module) -> int:
    """Learnable numbers in ``module``."""
    return sum(p.numel() for p in module.parameters())


@cache
def settings(config: str) -> dict[str, Any]:
    """The whole config that the overrides ``config`` choose."""
    return load_settings(get_tool("train"), ["experiment=null", *config.split()], default_config_dir()).plain()


def neck(config: str, levels: Sequence[LevelSpec]) -> nn.Module:
    """The neck that ``config`` chooses, on ``levels``, without memory."""
    cfg = settings(config)
    with torch.device("meta"):
        return build(cfg["neck"], levels, partial(build, cfg["fusion"]), partial(build, cfg["block"]))


def detector(config: str, num_classes: int) -> Detector:
    """The whole detector that ``config`` chooses, without memory."""
    with torch.device("meta"):
        return build_detector(settings(config), num_classes, seed=0, load_pretrained=False)


def operator(config: str, channels: int, inputs: int) -> nn.Module:
    """The operator that ``config`` chooses, without memory."""
    with torch.device("meta"):
        return build(settings(config)["fusion"], channels, inputs)


def published_rows() -> list[Row]:
    """Counts that a paper, its authors' page or a run of their code gives."""

    def whole(part: str, config: str, levels: Sequence[LevelSpec], published: str, source: str) -> Row:
        return Row(part, config, count(neck(config, levels)), published, source)

    bfp, afpn = neck("neck=bfp", RESNET50), "neck=afpn neck.extra.count=1"
    rows = [
        whole("FPN, C2 to C5 of ResNet-50, 256 channels", "neck=fpn", RESNET50, "3.344 M", "code of mmdetection and torchvision"),
        whole("PAFPN with one pooled level", "neck=pafpn neck.extra.count=1", RESNET50, "6.885 M", "code of mmdetection"),
        whole("NAS-FPN, 7 cells, C3 to C5", "neck=nasfpn", C3_TO_C5, "29.99 M", "code of mmdetection"),
        whole("FPG, 9 pathways", "neck=fpg", RESNET50, "41.6 M", "code of mmdetection"),
        whole("AFPN with one pooled level", afpn, RESNET50, "11.392 M", "the authors' code"),
        whole("hybrid encoder of RT-DETR-R50", "neck=hybrid_encoder", C3_TO_C5, "11.951 M", "the authors' code"),
        whole("BiFPN of EfficientDet-D0", "neck=bifpn", EFFICIENTNET_B0, "196,281", "code of effdet"),
        Row(
            "refinement of Balanced FPN, 256 channels",
            "neck=bfp, blocks.G",
            count(bfp.get_submodule("blocks.G")),
            "0.263 M",
            "code of mmdetection",
        ),
    ]
    more = count(neck(afpn, RESNET50)) - count(neck("neck=fpn", RESNET50))
    rows.append(Row("AFPN in place of FPN, Faster R-CNN", f"{afpn}, minus neck=fpn", more, "8.0 M", "the authors' page: 41.8 M to 49.8 M"))
    ssd = "backbone=vgg16 neck=ssd neck.widths=1.0 neck.extra.widths=[512,256,256,256] neck.extra.unpadded=2 head=ssd"
    rows.append(Row("SSD300, VGG16, 90 classes and background, whole detector", ssd, count(detector(ssd, 90)), "35.64 M", "torchvision"))
    for name, published in (("aff", "30.3 M"), ("iaff", "35.1 M")):
        resnet = f"backbone=fusion_resnet backbone.block=bottleneck backbone.depths=[3,4,6,3] backbone.join=[3,4] backbone.fusion={name}"
        config = f"{resnet} backbone.fusion.reduction=16"
        ours = count(detector(config, 1).backbone) + conv(2048, 1000)
        rows.append(
            Row(f"{name.upper().replace('IA', 'iA')}-ResNet-50 with a classifier of 1000", config, ours, published, "the paper, Table 5")
        )
    aff, cbam = operator("fusion=aff fusion.reduction=4", 64, 2), operator("fusion=cbam fusion.minimum_width=1", 64, 2)
    rows.append(Row("AFF, 64 channels, r = 4", "fusion=aff fusion.reduction=4", count(aff), "4,576", "the authors' code"))
    gate = count(cbam.get_submodule("gates.0"))
    rows.append(Row("CBAM, 64 channels, r = 16, one input", "fusion=cbam fusion.minimum_width=1", gate, "680", "the authors' code"))
    return rows


def conv(inner: int, outer: int, kernel: int = 1, *, bias: bool = True) -> int:
    """Parameters of a convolution."""
    return inner * outer * kernel**2 + outer * bias


def layer_rows() -> list[Row]:
    """Parts whose papers give layer sizes but no total: ours against the sum by hand."""
    pairs = conv(1024, 256) + conv(256, 512, 3) + conv(512, 128) + 2 * conv(256, 128) + 3 * conv(128, 256, 3)
    aligned = conv(512, 256, bias=False) + conv(256, 8 * 27, 3) + conv(256, 256, 3)
    selection = sum(conv(c, c, bias=False) + conv(c, 256, bias=False) for c in (256, 512, 1024))
    fapn = 3 * aligned + selection + conv(2048, 256) + 3 * conv(256, 256, 3)
    ssd = "neck=ssd neck.extra.widths=[512,256,256,256] neck.extra.unpadded=2"
    coarser = "neck=hrfpn neck.topology.coarser=1"
    necks = [
        ("SSD300's extra levels", ssd, VGG_SSD, "extra", pairs, "1x1 256, 3x3 512; three times 1x1 128, 3x3 256; from 1024"),
        ("MS-CNN's buffer", "neck=mscnn", VGG_SSD, "entries.C3", conv(512, 512, 3), "3x3, 512 to 512"),
        ("HyperNet, VGG16", "neck=hypernet_paper", VGG_HYPERNET, "blocks", sum(conv(c, 42, 5) for c in (64, 256, 512)), "5x5 to 42 each"),
        ("ION's context, VGG16", "neck=ion_paper", VGG_ION, "blocks.X4", conv(512, 512) + 2 * conv(2048, 512), "1x1; two 1x1 of 4 x 512"),
        ("HRFPN, HRNet-W32", coarser, HRNET_W32, "", conv(480, 256) + 5 * conv(256, 256, 3), "1x1 of 480; five 3x3"),
        (
            "CARAFE, 256 channels",
            "neck=carafe_fpn",
            RESNET50,
            "resamplers.C5_to_M4",
            conv(256, 64) + conv(64, 100, 3),
            "1x1 64; 3x3 4 x 25",
        ),
        ("FaPN's alignment", "neck=fapn", RESNET50, "resamplers.C5_to_M4", aligned, "1x1 of 512 without bias; 3x3 to 8 x 27; 3x3"),
        ("FaPN", "neck=fapn", RESNET50, "", fapn, "three selections and alignments; 1x1; three 3x3"),
    ]
    asff = 3 * (conv(256, 16, bias=False) + 2 * 16) + conv(48, 3)
    operators = [
        ("iAFF, 64 channels, r = 4", "fusion=iaff fusion.reduction=4", 64, 2, "", 2 * 4576, "two of AFF's"),
        ("SE, 256 channels, r = 16, one input", "fusion=se", 256, 2, "gates.0", conv(256, 16) + conv(16, 256), "256 to 16 to 256"),
        ("ECA, 256 channels, two inputs", "fusion=eca", 256, 2, "", 2 * 5, "5 weights each"),
        ("ASFF, 3 levels of 256 channels", "fusion=spatial_softmax", 256, 3, "", asff, "1x1 to 16 and BatchNorm per level; 1x1 48 to 3"),
    ]
    made = [(part, config, neck(config, levels), path, total, layers) for part, config, levels, path, total, layers in necks]
    made += [(part, config, operator(config, c, n), path, total, layers) for part, config, c, n, path, total, layers in operators]
    return [
        Row(part, f"{config}, {path}" if path else config, count(module.get_submodule(path)), f"{total:,}", layers)
        for part, config, module, path, total, layers in made
    ]


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Parameter counts",
        "",
        "Written by `python benchmarks/neck_parameters.py --out benchmarks/neck_parameters.md`. `tests/necks/test_parameter_counts.py`",
        "asserts every row, and that this page is up to date. Overrides are those of `tools/train.py` beside `experiment=null`; a name",
        "after the comma is a module inside the neck. The levels are those of the backbone named, or C2 to C5 of ResNet-50.",
        "",
        "## Against published counts",
        "",
        *table(published_rows(), "published", "source"),
        "",
        "## Against layer sizes",
        "",
        "The papers give these parts' layers but no total; the sum was made by hand.",
        "",
        *table(layer_rows(), "by hand", "layers"),
        "",
    ]
    return "\n".join(lines)


def table(rows: Sequence[Row], published: str, source: str) -> list[str]:
    """``rows`` as a Markdown table."""
    head = [f"| part | config | ours | {published} | {source} |", "|---|---|---|---|---|"]
    return head + [f"| {row.part} | `{row.config}` | {row.ours:,} | {row.published} | {row.source} |" for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write; without it the page is printed")
    written = parser.parse_args().out
    if written is None:
        print(page())
    else:
        written.write_text(page(), encoding="utf-8")
