"""Scenes on disk as an ordinary COCO data set: written once, complete or not at all.

Everything goes into a hidden folder beside the final one, which gets its name by one rename at the end. So a folder that carries the
final name is complete; several processes may write at once, and the first rename wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from PIL import Image

from fusion_det.data.scenes.render import GENERATOR_VERSION, SPLITS, Scene, render
from fusion_det.data.scenes.settings import SceneSettings
from fusion_det.errors import ConfigError, DataError

_log = logging.getLogger(__name__)

_MANIFEST = "scenes.json"
_STALE_SECONDS = 24 * 3600


def ensure_written(root: Path, name: str, settings: SceneSettings, images: dict[str, int]) -> Path:
    """Folder ``<root>/<name>-<digest>`` with ``annotations/instances_{train,val}.json`` and ``{train,val}/*.png``.

    ``images`` gives the number of pictures of each split. An existing folder is used as it is, after a look at its files' number and size.

    Raises:
        ConfigError: ``name`` is not a plain word.
        DataError: the folder cannot be written, or an existing one has lost or gained files.
    """
    if not re.fullmatch(r"[A-Za-z0-9]\w*", name, re.ASCII):
        raise ConfigError(f"{name!r:.60} cannot start a folder's name", where="data.name", mend="use letters, digits and _ only")
    recipe = {"version": GENERATOR_VERSION, "settings": settings.as_dict(), "images": images}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = root / f"{name}-{digest}"
    try:
        if not folder.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            _remove_stale(root, folder.name)
            _log.info("writing %d generated pictures to %s", sum(images.values()), folder)
            _write_and_rename(folder, settings, recipe)
        _check(folder)
    except OSError as error:
        mend = "give a folder that can be written: data.root=..."
        raise DataError(f"cannot make the generated data set: {error.strerror or error}", where=str(folder), mend=mend) from error
    return folder


def _write_and_rename(folder: Path, settings: SceneSettings, recipe: dict[str, Any]) -> None:
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        (draft / "annotations").mkdir(parents=True)
        sizes = {split: _write_split(draft, split, count, settings) for split, count in recipe["images"].items()}
        _write_json(draft / _MANIFEST, {**recipe, "bytes": sizes})
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise somebody else was faster, with the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_split(draft: Path, split: str, count: int, settings: SceneSettings) -> int:
    """Pictures and annotations of one split; returns the pictures' bytes."""
    (draft / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    total = 0
    for index in range(count):
        scene = render(settings.seed, split, index, settings)
        path, image_id, side = draft / split / f"{index:06d}.png", _image_id(split, index), settings.image_size
        images.append({"id": image_id, "file_name": path.name, "width": side, "height": side, "license": 1})
        annotations.extend(_annotations(scene, image_id, first_id=len(annotations) + 1))
        Image.fromarray(scene.pixels).save(path, compress_level=1)
        total += path.stat().st_size
    document = {
        "info": {"description": f"fusion_det scenes, generated, {split}", "version": str(GENERATOR_VERSION)},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "categories": settings.categories(),
        "images": images,
        "annotations": annotations,
    }
    _write_json(draft / "annotations" / f"instances_{split}.json", document)
    return total


def _annotations(scene: Scene, image_id: int, *, first_id: int) -> list[dict[str, Any]]:
    """COCO records of one picture; a cross also tells how far its cue is (px), so that reports can draw AP over distance."""
    records = []
    rows = zip(scene.boxes.tolist(), scene.labels.tolist(), scene.crowd.tolist(), scene.cue_distances.tolist(), strict=True)
    for offset, ((x0, y0, x1, y1), label, crowd, distance) in enumerate(rows):
        record = {
            "id": first_id + offset,
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": int(crowd),
            "segmentation": [],
        }
        records.append(record if distance != distance else {**record, "cue_distance": round(distance, 2)})
    return records


def _image_id(split: str, index: int) -> int:
    """Ids of the splits never meet, and do not depend on their lengths."""
    return SPLITS.index(split) + len(SPLITS) * index + 1


def _write_json(path: Path, document: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())


def _check(folder: Path) -> None:
    """Number and total size of the pictures against the manifest: finds deleted files, and files that a power cut left empty."""
    mend = "delete this folder; it is written anew"
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        wanted = {split: (int(manifest["images"][split]), int(manifest["bytes"][split])) for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("not a complete generated data set", where=str(folder / _MANIFEST), mend=mend) from error
    for split, (count, total) in wanted.items():
        with os.scandir(folder / split) as entries:
            sizes = [entry.stat().st_size for entry in entries]
        if (len(sizes), sum(sizes)) != (count, total):
            found = f"{len(sizes)} files of {sum(sizes)} bytes, written were {count} of {total}"
            raise DataError(f"generated pictures changed: {found}", where=str(folder / split), mend=mend)


def _remove_stale(root: Path, name: str) -> None:
    """Drafts that killed processes left behind; young ones may still be somebody's."""
    for draft in root.glob(f".{name}.*"):
        with contextlib.suppress(OSError):  # another process may remove the same one
            if time.time() - draft.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(draft)
