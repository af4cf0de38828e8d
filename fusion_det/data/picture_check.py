"""Pictures against their annotations: each must be readable and have the annotated size, or its boxes mean nothing."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fusion_det.data.coco_index import CocoIndex
from fusion_det.data.images import read_image, read_size
from fusion_det.errors import DataError, FusionDetError, raise_all

SHOWN_PICTURES = 20


def read_annotated(index: CocoIndex, image: int) -> Tensor:
    """uint8 [3, H, W] of one picture of the index; a ``DataError`` if it cannot be read or has not the annotated size."""
    pixels = read_image(index.path(image))
    _check_size(index, image, (pixels.shape[1], pixels.shape[2]))
    return pixels


def _check_size(index: CocoIndex, image: int, size: tuple[int, int]) -> None:
    height, width = index.sizes[image].tolist()
    if size == (height, width):
        return
    turned = " (turned by EXIF?)" if size == (width, height) else ""
    raise DataError(
        f"the picture is {size[1]} x {size[0]} pixels but annotated as {width} x {height}{turned}",
        where=str(index.path(image)),
        mend=f"correct width, height and boxes of image id {index.image_ids[image]} in {index.annotation_file}",
    )


def check_pictures(index: CocoIndex, *, decode: bool, images: Iterable[int] | None = None) -> None:
    """Check every picture (or the given ones) and raise all faults at once, the first 20 by name.

    ``decode=False`` reads the headers only: quick, finds missing and foreign files and wrong sizes. ``decode=True`` finds damage as well.
    """
    faults: list[FusionDetError] = []
    for image in range(len(index)) if images is None else images:
        try:
            if decode:
                read_annotated(index, image)
            else:
                _check_size(index, image, read_size(index.path(image)))
        except FusionDetError as error:
            faults.append(error)
    if len(faults) > SHOWN_PICTURES:
        more = DataError(f"and {len(faults) - SHOWN_PICTURES} more pictures cannot be used", where=str(index.annotation_file))
        faults = [*faults[:SHOWN_PICTURES], more]
    raise_all(faults)
