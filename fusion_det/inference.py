"""A trained detector, ready for pictures: ``fusion_det.load(checkpoint).predict(images)``. Needs the checkpoint and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion_det.build import build_detector
from fusion_det.config.files import write_json
from fusion_det.data.augment import evaluation_view
from fusion_det.data.buckets import Shape, assign, buckets_of, resized
from fusion_det.data.images import read_image
from fusion_det.engine.checkpoint import load_checkpoint
from fusion_det.engine.device import autocast, choose_device, choose_precision
from fusion_det.engine.memory import keep_freed_memory
from fusion_det.errors import CheckpointError, ConfigError, DataError, FusionDetError, raise_all
from fusion_det.fast.prepare import make_fast
from fusion_det.structures import Detections, ImageBatch
from fusion_det.visualize import draw_boxes, save_png

if TYPE_CHECKING:
    from PIL import Image

    from fusion_det.config.schema import PredictConfig

    Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor

logger = logging.getLogger(__name__)
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture, by falling score. n detections; boxes in the original frame."""

    boxes: Tensor
    """float32 [n, 4] xyxy in pixels of the given picture."""
    scores: Tensor
    """float32 [n]."""
    labels: Tensor
    """int64 [n] class indices into ``class_names``."""
    category_ids: tuple[int, ...]
    """The ids that the training file used for these classes."""
    names: tuple[str, ...]
    """Class names of the detections."""
    levels: tuple[str, ...]
    """Pyramid level that fired, by name."""
    sources: tuple[int, ...]
    """Where each came from: index into the predictor's ``source_names``; 0 for a single detector."""


class PicturePredictor:
    """Pictures of any size in, :class:`Prediction` out; who inherits from it gives the attributes and :meth:`detect`."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    level_names: tuple[str, ...]
    source_names: tuple[str, ...]
    image_sizes: tuple[int, ...]
    """Long sides that pictures are resized to; :meth:`detect` takes one batch of the same pictures for each."""
    buckets: tuple[Shape, ...]
    """Shapes of the network input at the first of these sizes."""

    def detect(self, *batches: ImageBatch) -> Detections:
        """Final detections of prepared batches, original frame, on the host."""
        raise NotImplementedError

    def predict(self, images: Picture | Sequence[Picture], *, score_threshold: float = 0.3, batch_size: int = 8) -> list[Prediction]:
        """Detections of each picture.

        ``images``: one or several of: a path, a PIL picture, a uint8 array [H, W, 3] (RGB), a uint8 tensor [3, H, W] (RGB).
        """
        single = isinstance(images, (str, Path, np.ndarray, Tensor)) or hasattr(images, "getpixel")
        pictures: Sequence[Any] = [images] if single else images  # type: ignore[assignment]
        found: list[Prediction] = []
        for start in range(0, len(pictures), batch_size):
            decoded = [to_tensor(picture) for picture in pictures[start : start + batch_size]]
            found += self._predict_batch(decoded, score_threshold)
        return found

    def _predict_batch(self, pictures: list[Tensor], score_threshold: float) -> list[Prediction]:
        """Pictures of one call may fall into several buckets; each bucket is one forward pass."""
        sizes = np.array([tuple(p.shape[-2:]) for p in pictures])
        shapes = self.buckets
        chosen = assign(sizes, shapes)
        out: list[Prediction | None] = [None] * len(pictures)
        for bucket in sorted(set(chosen.tolist())):
            members = np.flatnonzero(chosen == bucket).tolist()
            given = [pictures[i] for i in members]
            detections = self.detect(*(batch_of(given, resized(shapes, size)[bucket]) for size in self.image_sizes))
            for i, prediction in zip(members, self._unpack(detections, score_threshold), strict=True):
                out[i] = prediction
        return [p for p in out if p is not None]

    def _unpack(self, detections: Detections, score_threshold: float) -> Iterator[Prediction]:
        for i in range(len(detections.valid)):
            keep = detections.valid[i] & (detections.scores[i] >= score_threshold)
            labels = detections.labels[i][keep]
            yield Prediction(
                boxes=detections.boxes[i][keep].float(),
                scores=detections.scores[i][keep].float(),
                labels=labels,
                category_ids=tuple(self.category_ids[k] for k in labels.tolist()),
                names=tuple(self.class_names[k] for k in labels.tolist()),
                levels=tuple(self.level_names[k] for k in detections.levels[i][keep].tolist()),
                sources=tuple(detections.sources[i][keep].tolist()),
            )


class LoadedDetector(PicturePredictor):
    """A detector with its classes. ``model`` is in evaluation mode on ``device``; ``fast``: see :func:`load`."""

    def __init__(self, state: dict[str, Any], *, device: torch.device, use_ema: bool, where: str, fast: bool = False) -> None:
        self.config: dict[str, Any] = state["config"]
        self.class_names: tuple[str, ...] = tuple(state["class_names"])
        self.category_ids: tuple[int, ...] = tuple(state["category_ids"])
        self.image_size: int = state["image_size"]
        self.image_sizes, self.where, self.source_names = (self.image_size,), where, (where,)
        self.buckets = buckets_of(self.config.get("data", {}), self.image_size)
        self.model = build_detector(self.config, len(self.class_names), seed=self.config["seed"], load_pretrained=False)
        weights = state["ema"] if use_ema and state["ema"] is not None else state["model"]
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            fault = f"its weights do not fit its own config: {first}"
            raise CheckpointError(fault, where=where, mend="use the version it was made with") from error
        self.model.to(device).eval()
        if self.config["trainer"]["channels_last"]:
            self.model.channels_last()
        if fast:
            make_fast(self.model, self.buckets[0])
        self.device, self.precision = device, choose_precision(self.config["trainer"]["precision"], device)
        self.level_names = tuple(level.name for level in self.model.head.levels)  # type: ignore[union-attr]

    @torch.inference_mode()
    def detect(self, *batches: ImageBatch) -> Detections:
        (images,) = batches
        with autocast(self.device, self.precision):
            return self.model.predict(images.to(self.device)).to("cpu")


def load(path: str | Path, *, device: str = "auto", use_ema: bool = True, fast: bool = False) -> LoadedDetector:
    """The detector of a checkpoint made by training: its config, classes and ids are inside.

    ``device``: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``use_ema``: the averaged weights, where the checkpoint has them.
    ``fast``: ``model`` is changed for prediction only, see :func:`fusion_det.fast.prepare.make_fast`: float32 boxes are the same up to
    rounding. Without it they are those of validation in training to the bit, and the weights are the checkpoint's.
    Raises ``CheckpointError`` for a damaged or foreign file.
    """
    return LoadedDetector(load_checkpoint(path), device=choose_device(device), use_ema=use_ema, where=str(path), fast=fast)


def to_tensor(picture: Any) -> Tensor:
    """One picture as uint8 [3, H, W] RGB; see :meth:`LoadedDetector.predict` for what is taken."""
    if isinstance(picture, (str, Path)):
        return read_image(Path(picture))
    if not isinstance(picture, Tensor):
        if hasattr(picture, "convert"):
            picture = np.asarray(picture.convert("RGB"))
        picture = torch.from_numpy(np.array(picture)).movedim(-1, 0)
    if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != 3 or 0 in picture.shape:
        fault = f"a picture of dtype {picture.dtype} and shape [C, H, W] = {list(picture.shape)}"
        raise DataError(fault, where="predict", mend="give uint8 RGB pictures")
    return picture


def batch_of(pictures: list[Tensor], bucket: tuple[int, int]) -> ImageBatch:
    """Pictures fitted into one bucket shape, as at evaluation time."""
    nothing = (np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool))
    views = [evaluation_view(picture, *nothing, bucket) for picture in pictures]
    return ImageBatch(
        pixels=torch.stack([view.pixels for view in views]),
        sizes=torch.tensor([view.size for view in views]),
        scales=torch.tensor([view.scale for view in views], dtype=torch.float32),
        original_sizes=torch.tensor([tuple(picture.shape[-2:]) for picture in pictures]),
        image_ids=tuple(range(len(pictures))),
    )


def predict_files(settings: PredictConfig) -> None:
    """``tools/predict.py``: detections of a picture, or of every picture of a folder, as ``predictions.json`` and drawn copies.

    A picture that cannot be read is named and skipped; the others are done first, then the faults are raised.
    """
    paths = find_pictures(Path(settings.source).expanduser())
    from fusion_det.ensemble import chosen_ensemble  # it builds on this module

    keep_freed_memory()
    detector = chosen_ensemble(settings)
    output = Path(settings.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror}", where=str(output), mend="choose another folder with output=DIR") from error
    records: list[dict[str, Any]] = []
    faults: list[FusionDetError] = []
    count = 0
    for start in range(0, len(paths), settings.batch_size):
        pictures, names = [], []
        for path in paths[start : start + settings.batch_size]:
            try:
                pictures.append(read_image(path))
                names.append(path)
            except DataError as error:
                faults.append(error)
        found = detector.predict(pictures, score_threshold=settings.score_threshold, batch_size=settings.batch_size)
        for path, picture, prediction in zip(names, pictures, found, strict=True):
            records.append(as_record(path.name, picture, prediction))
            count += len(prediction.names)
            if settings.draw:
                drawn = draw_boxes(picture, prediction.boxes, prediction.labels, detector.class_names, scores=prediction.scores)
                save_png(output / f"{path.stem}.png", drawn)
    content = {"checkpoint": settings.checkpoint, "sources": detector.source_names, "pictures": records}
    write_json(output / "predictions.json", content)
    files = "predictions.json and drawn pictures" if settings.draw else "predictions.json"
    logger.info("%d detections in %d pictures; in %s: %s", count, len(records), output, files)
    raise_all(faults)


def find_pictures(source: Path) -> list[Path]:
    """The picture ``source``, or all pictures of the folder ``source`` by name; ``DataError`` if there are none."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ConfigError("no such picture or folder", where=f"source={source}", mend="give a picture file or a folder of pictures")
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"no pictures ({', '.join(PICTURE_SUFFIXES)}) in it", where=str(source), mend="give a folder that holds pictures")
    return found


def as_record(name: str, picture: Tensor, prediction: Prediction) -> dict[str, Any]:
    """One picture of ``predictions.json``: COCO's xywh boxes in pixels of the picture, original category ids."""
    xyxy = prediction.boxes
    xywh = torch.cat([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], dim=1)
    origins = zip(prediction.levels, prediction.sources, strict=True)
    rows = zip(prediction.category_ids, prediction.names, xywh.tolist(), prediction.scores.tolist(), origins, strict=True)
    return {
        "file_name": name,
        "width": picture.shape[2],
        "height": picture.shape[1],
        "detections": [
            {"category_id": c, "category": n, "bbox": [round(v, 2) for v in box], "score": round(s, 5), "level": level, "source": source}
            for c, n, box, s, (level, source) in rows
        ],
    }
