"""The command-line tools: what each is for and where its parts live. Only names are kept here, so that ``--help`` imports nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fusion_det.errors import ConfigError


class Tool(NamedTuple):
    """One tool; its primary config is ``configs/<name>.yaml``."""

    name: str
    purpose: str
    settings: str
    """``module:class`` of its settings in :mod:`fusion_det.config.schema`."""
    run: str
    """``module:function`` that does the work; takes the settings, and the raw overrides if ``takes_overrides``."""
    takes_overrides: bool
    examples: tuple[tuple[str, str], ...]
    """Arguments after the command, and what they do."""
    open_nodes: tuple[str, ...] = ()
    """Mappings that take further keys without Hydra's ``+``."""
    dry_run: str = ""
    """``module:function`` behind ``--dry-run``; takes the plain config and the file for the picture or ``None``."""
    passes_to: str = ""
    """Tool whose overrides this one takes too and hands on. Its functions take the settings and the folders of the configs."""
    groups: tuple[str, ...] = ()
    """With ``passes_to``: the config groups that are this tool's own."""
    texts: tuple[str, ...] = ()
    """With ``passes_to``: keys whose values need no quotes, whatever letters they have."""
    lists: tuple[str, ...] = ()
    """With ``passes_to``: keys whose values may be ``a,b,c``."""


TRAIN = Tool(
    "train",
    "Train a detector composed of a backbone, a fusion neck and a head, and evaluate it.",
    "fusion_det.config.schema:TrainConfig",
    "fusion_det.engine.run:train",
    True,
    (
        ("", "the default run: generated scenes, on CPU or GPU, in minutes"),
        ("neck=bifpn fusion=aff backbone=resnet18 seed=3", "choose the parts"),
        ("trainer.epochs=24 loader.batch_size=16 optimizer.lr=0.02", "change values"),
        ("data=coco data.root=/data/coco", "train on COCO-format data"),
        ("resume=auto", "go on with the newest unfinished run of this name"),
        ("-m neck=none,fpn,bifpn seed=0,1,2", "nine runs, one after another"),
    ),
    ("eval.expect",),
    "fusion_det.build:describe_run",
)
EVALUATE = Tool(
    "evaluate",
    "Measure a checkpoint, or a predictions file: the COCO numbers, per class and per size.",
    "fusion_det.config.schema:EvaluateConfig",
    "fusion_det.evaluation.start:evaluate",
    False,
    (
        ("checkpoint=runs/scenes/last.pt", "on the validation set it was trained with"),
        ("gt=val.json dt=predictions.json", "a COCO results file of any framework; in seconds"),
        ("checkpoint=best.pt split=train", "on the training pictures"),
        ("checkpoint=best.pt annotations=val.json images=pictures", "on another COCO-format file"),
        ("checkpoint=best.pt expect.AP=[0.35,0.02]", "exit with 4 unless AP is 0.35 +- 0.02"),
        ("checkpoint=[a.pt,b.pt] tta.flip=true late_fusion=wbf", "two checkpoints and mirrored pictures as one detector"),
    ),
    ("expect", "data", "late_fusion"),  # without data=OPTION (late_fusion=OPTION) the keys change the checkpoint's own config
)
PREDICT = Tool(
    "predict",
    "Find objects in pictures and draw them.",
    "fusion_det.config.schema:PredictConfig",
    "fusion_det.inference:predict_files",
    False,
    (
        ("checkpoint=best.pt source=picture.jpg", "one picture"),
        ("checkpoint=best.pt source=pictures", "every picture of a folder"),
        ("checkpoint=best.pt source=pictures output=found", "results into the folder found"),
        ("checkpoint=best.pt source=pictures score_threshold=0.5", "only the surer detections"),
        ("checkpoint=best.pt source=pictures draw=false", "predictions.json only"),
        ("checkpoint=best.pt source=pictures tta.scales=[1,1.5] tta.flip=true", "four looks at each picture"),
    ),
    ("late_fusion",),
)
ENSEMBLE = Tool(
    "ensemble",
    "Bring predictions.json files of several detectors, of any framework, together.",
    "fusion_det.config.schema:EnsembleConfig",
    "fusion_det.evaluation.fuse_files:fuse_files",
    False,
    (
        ("predictions=[a.json,b.json]", "weighted boxes fusion of two files"),
        ("predictions=[a.json,b.json] weights=[2,1]", "the first counts twice"),
        ("predictions=[a.json,b.json] late_fusion=soft_nms", "another late fusion"),
        ("predictions=[a.json,b.json] late_fusion.iou_threshold=0.6", "change its values"),
        ("predictions=[a.json,b.json] annotations=val.json", "and measure: each file, and what they give together"),
        ("predictions=a.json late_fusion=nms score_threshold=0.05", "suppress again in one file"),
    ),
    ("expect",),
)
COMPARE = Tool(
    "compare",
    "Train arms x seeds under one budget and say, with its uncertainty, which arm is better.",
    "fusion_det.config.compare_schema:CompareConfig",
    "fusion_det.compare.run:compare",
    False,
    (
        ("comparison=scenes_smoke", "three necks, two seeds, minutes on two CPU cores"),
        ("comparison=necks --dry-run", "check every arm, print the plan and a forecast of the time"),
        ("arms='neck=fpn fusion=add; neck=fpn fusion=aff' seeds=0,1,2", "arms typed out"),
        ("comparison=necks jobs=2 trainer.epochs=20", "two runs at a time; any key of tools/train.py goes to every arm"),
        ("runs='fpn=runs/a,runs/b; aff=runs/c,runs/d'", "finished run folders, nothing is trained"),
        ("gt=val.json predictions='A=a0.json,a1.json; B=b0.json,b1.json'", "COCO results files of any framework"),
    ),
    ("arms", "slurm"),
    "fusion_det.compare.run:preview",
    passes_to="train",
    groups=("comparison",),
    texts=("arms", "baseline", "runs", "gt", "predictions", "folder"),
    lists=("seeds", "tune.lr"),
)
BENCHMARK = Tool(
    "benchmark",
    "Count and measure what a detector costs: parameters, FLOPs, latency, memory, training speed.",
    "fusion_det.config.benchmark_schema:BenchmarkConfig",
    "fusion_det.analysis.benchmark:benchmark",
    False,
    (
        ("", "the default model of tools/train.py"),
        ("neck=bifpn image_size=320", "any words of tools/train.py choose the model"),
        ("checkpoint=runs/scenes/last.pt", "a trained one"),
        ("head=retinanet measure=false", "count only, in seconds and without memory"),
        ("device=cuda batch_size=32", "on a GPU"),
        ("threads=1 training=false", "prediction only, on one CPU thread"),
    ),
    passes_to="train",
)
TOOLS = {tool.name: tool for tool in (TRAIN, EVALUATE, PREDICT, ENSEMBLE, COMPARE, BENCHMARK)}


def get_tool(name: str) -> Tool:
    """The tool of that name, or ``ConfigError``."""
    if name not in TOOLS:
        raise ConfigError(f"no tool {name!r}", mend=f"tools: {', '.join(TOOLS)}")
    return TOOLS[name]


def default_config_dir() -> Path:
    """``fusion_det/configs`` of an installed wheel, else ``configs`` of the checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError("the configs folder is missing", where=str(package.parent / "configs"), mend="reinstall, or give --config-path DIR")


def list_groups(folders: tuple[Path, ...]) -> dict[str, list[str]]:
    """Each config group (folder) with its options (YAML files), over all ``folders``."""
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for group in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))):
            groups.setdefault(group.name, set()).update(file.stem for file in group.glob("*.yaml"))
    return {name: sorted(options) for name, options in groups.items()}
