"""Where a run's pictures come from: the targets of ``configs/data/*.yaml``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from fusion_det.data.buckets import Shape, make_buckets
from fusion_det.data.coco_index import CocoIndex, read_index
from fusion_det.data.layouts import find_split


@dataclass(frozen=True)
class DataSource:
    """What a training run reads."""

    train: CocoIndex
    val: CocoIndex
    image_size: int
    """Long side of the network input in pixels."""
    short_side: int | None = None
    """Its short side, if pictures are resized by that."""
    stretch: bool = False
    """Whether pictures lose their aspect."""

    @property
    def buckets(self) -> tuple[Shape, ...]:
        """Shapes of the network input."""
        return make_buckets(self.image_size, short_side=self.short_side, stretch=self.stretch)


def one_split(root: str, split: str, *, annotation_file: str | None = None, image_dir: str | None = None) -> CocoIndex:
    """The index of one split of the data set under ``root`` (``~`` allowed; relative to the working folder)."""
    file, folder = find_split(
        Path(root).expanduser(),
        split,
        annotation_file=Path(annotation_file).expanduser() if annotation_file else None,
        image_dir=Path(image_dir).expanduser() if image_dir else None,
    )
    return read_index(file, folder)


def coco(
    *,
    root: str,
    train_split: str = "train",
    val_split: str = "val",
    image_size: PositiveInt = 320,
    short_side: PositiveInt | None = None,
    stretch: bool = False,
    train_annotations: str | None = None,
    train_images: str | None = None,
    val_annotations: str | None = None,
    val_images: str | None = None,
) -> DataSource:
    """A data set in COCO format on disk; ``*_annotations`` and ``*_images`` name a file and a folder instead of looking for the split.

    ``image_size``, ``short_side`` and ``stretch``: see :func:`fusion_det.data.buckets.make_buckets`.

    Raises a ``DataError`` if a split cannot be found or read, or if the two have not the same classes.
    """
    train = one_split(root, train_split, annotation_file=train_annotations, image_dir=train_images)
    val = one_split(root, val_split, annotation_file=val_annotations, image_dir=val_images)
    train.check_same_classes(val)
    note_overlap(train, val)
    return DataSource(train, val, image_size, short_side, stretch)


def note_overlap(train: CocoIndex, val: CocoIndex) -> None:
    """Count in ``val.ledger`` the pictures that are in both: the same file, or the same name, size and boxes."""
    paths = {train.path(image).resolve() for image in range(len(train))} if _may_share_files(train, val) else set()
    contents = Counter(_content(train, image) for image in range(len(train)))
    shared = [image for image in range(len(val)) if _content(val, image) in contents or (paths and val.path(image).resolve() in paths)]
    val.ledger.add(f"pictures that are also in {train.name}: results on them say little", [val.file_names[image] for image in shared])


def _may_share_files(train: CocoIndex, val: CocoIndex) -> bool:
    return bool(set(train.file_names) & set(val.file_names)) and train.image_dir.resolve() == val.image_dir.resolve()


def _content(index: CocoIndex, image: int) -> tuple[str, tuple[int, ...], bytes]:
    rows = slice(index.starts[image], index.starts[image + 1])
    return index.file_names[image], tuple(index.sizes[image].tolist()), index.xywh[rows].tobytes() or str(index.path(image)).encode()
