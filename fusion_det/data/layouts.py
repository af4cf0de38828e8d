"""Finds the annotation file and the image folder of a split in the usual folder layouts.

root/annotations/instances_train2017.json + root/train2017/     COCO
root/annotations/instances_train.json     + root/images/train/ (or root/train/, root/images/, root/)
root/train/_annotations.coco.json         + pictures beside it  Roboflow's COCO export
"""

from __future__ import annotations

import re
from pathlib import Path

from fusion_det.data.ledger import listed
from fusion_det.errors import DataError

ALIASES = dict.fromkeys(("val", "valid", "validation"), ("val", "valid", "validation"))
ROBOFLOW_FILE = "_annotations.coco.json"


def find_split(root: Path, split: str, *, annotation_file: Path | None = None, image_dir: Path | None = None) -> tuple[Path, Path]:
    """Annotation file and image folder of ``split`` under ``root``; ``val``, ``valid`` and ``validation`` mean the same.

    A given ``annotation_file`` or ``image_dir`` is taken instead of looking, relative to ``root`` if it is not absolute.
    Raises a ``DataError`` that lists what was looked for and what is there.
    """
    if not root.is_dir():
        raise DataError("the data folder does not exist", where=str(root), mend="set data.root to the folder that holds the data set")
    names = tuple(dict.fromkeys((split, *ALIASES.get(split, ()))))
    if not split or any(mark in split for mark in "/\\*?[\0"):
        raise DataError(f"'{split}' cannot be the name of a split", where=str(root), mend="use a name like train, val or test")
    found = root / annotation_file if annotation_file else _find_annotations(root, names)
    if not found.is_file():
        raise DataError("annotation file not found", where=str(found), mend="check the path, relative to data.root")
    folder = root / image_dir if image_dir else _find_images(root, names, found)
    if not folder.is_dir():
        raise DataError("image folder not found", where=str(folder), mend="check the path, relative to data.root")
    return found, folder


def _find_annotations(root: Path, names: tuple[str, ...]) -> Path:
    """The one annotation file of a split: the exact name first, then a year, then any ending such as ``_small``."""
    endings = (r"", r"(19|20)\d\d", r"[_.-].*")
    files = sorted(path for path in (root / "annotations").glob("instances_*.json") if path.is_file())
    for name in names:
        for ending in endings:
            fitting = [path for path in files if re.fullmatch(f"instances_{re.escape(name)}{ending}", path.stem)]
            if len(fitting) > 1:
                what = f"several annotation files fit the split '{names[0]}': {listed([path.name for path in fitting])}"
                raise DataError(what, where=str(root / "annotations"), mend="name one of them, e.g. data.train_annotations")
            if fitting:
                return fitting[0]
        if (root / name / ROBOFLOW_FILE).is_file():
            return root / name / ROBOFLOW_FILE
    looked = f"annotations/instances_{names[0]}*.json and {names[0]}/{ROBOFLOW_FILE}"
    splits = known_splits(root)
    if splits:
        mend = f"this data set has {', '.join(splits)}: name one of them, e.g. data.val_split={splits[-1]}, or make the split"
    else:
        mend = "set data.root to the folder above 'annotations', or name the annotation file"
    raise DataError(
        f"no annotations of the split '{names[0]}': looked for {looked}; there is {_contents(root)}", where=str(root), mend=mend
    )


def known_splits(root: Path) -> list[str]:
    """Names of the splits found under ``root``."""
    files = [path.stem.removeprefix("instances_") for path in sorted((root / "annotations").glob("instances_*.json"))]
    return files + sorted(path.parent.name for path in root.glob(f"*/{ROBOFLOW_FILE}"))


def _contents(root: Path) -> str:
    entries = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    folder = root / "annotations"
    inside = [f"annotations/{path.name}" for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return listed(inside + [entry for entry in entries if entry != "annotations/"]) or "nothing"


def _find_images(root: Path, names: tuple[str, ...], annotation_file: Path) -> Path:
    if annotation_file.name == ROBOFLOW_FILE:
        return annotation_file.parent
    full = annotation_file.stem.removeprefix("instances_")
    short = tuple(dict.fromkeys((full, *names)))
    candidates = [root / name for name in short] + [root / "images" / name for name in short] + [root / "images"]
    return next((folder for folder in candidates if folder.is_dir()), root)
