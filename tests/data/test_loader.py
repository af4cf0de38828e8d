"""Batches: padded right, the same with and without worker processes, and faults told without a worker's traceback."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_det.data.augment import Augment
from fusion_det.data.buckets import make_buckets
from fusion_det.data.coco_index import CocoIndex, read_index
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import Batch, collate, eval_loader, train_loader, worker_count
from fusion_det.data.order import BatchOrder
from fusion_det.data.picture_check import check_pictures
from fusion_det.errors import DataError, Faults
from fusion_det.structures import Detections

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding", "ignore:This process .* is multi-threaded")
BUCKETS = make_buckets(128)


@pytest.fixture
def train(coco_root: Path) -> CocoIndex:
    return read_index(coco_root / "annotations/instances_train.json", coco_root / "train")


@pytest.fixture
def copied(coco_root: Path, tmp_path: Path) -> CocoIndex:
    """An index of its own pictures, to be damaged."""
    shutil.copytree(coco_root / "train", tmp_path / "train")
    return read_index(coco_root / "annotations/instances_train.json", tmp_path / "train")


def augmented(index: CocoIndex, seed: int = 3) -> DetectionDataset:
    augment = Augment(hflip=0.5, vflip=0.5, scale=(0.5, 2), shift=1, brightness=0.4, contrast=0.4, saturation=0.4, colour_prob=0.7)
    return DetectionDataset(index, BUCKETS, augment=augment, seed=seed)


def epochs(dataset: DetectionDataset, workers: int, count: int = 2) -> list[Batch]:
    order = BatchOrder(dataset.bucket_of_image, batch_size=3, seed=3)
    loader = train_loader(dataset, order, workers=workers)
    batches: list[Batch] = []
    for epoch in range(count):
        order.start_at(epoch=epoch)
        batches += loader
    return batches


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(one, other, strict=True) for name in a.__dataclass_fields__]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_workers_change_nothing(train: CocoIndex) -> None:
    alone, helped = epochs(augmented(train), 0), epochs(augmented(train), 2)
    assert len(alone) == len(helped) == 2 * BatchOrder(augmented(train).bucket_of_image, batch_size=3, seed=3).batches_per_epoch
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))
    assert not same(alone[0], epochs(augmented(train, seed=4), 0, count=1)[0])


def test_samples_depend_on_seed_epoch_and_picture_alone(train: CocoIndex) -> None:
    dataset = augmented(train)
    first = dataset[1, 2].view.pixels
    torch.manual_seed(7)
    _ = dataset[0, 0]
    assert torch.equal(dataset[1, 2].view.pixels, first)
    assert not torch.equal(dataset[2, 2].view.pixels, first)
    assert not torch.equal(augmented(train, seed=4)[1, 2].view.pixels, first)


def test_starting_an_epoch_draws_no_global_random_number(train: CocoIndex) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epochs(augmented(train), 0, count=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_layout(train: CocoIndex) -> None:
    dataset = DetectionDataset(train, BUCKETS)
    images, targets = collate([dataset[0, image] for image in (0, 4)])
    assert (images.pixels.shape, images.pixels.dtype) == ((2, 3, 96, 128), torch.uint8)
    assert images.sizes.tolist() == [[85, 128], [96, 128]]
    assert images.original_sizes.tolist() == [[64, 96], [72, 96]]
    assert images.image_ids == (10, 14)
    assert images.sizes.dtype == images.original_sizes.dtype == torch.int64
    assert torch.allclose(images.scales, torch.tensor([[128 / 96, 85 / 64], [128 / 96, 96 / 72]]))
    assert targets.boxes.shape == (2, 16, 4)
    assert targets.valid.sum(1).tolist() == [3, 1]
    assert not targets.boxes[~targets.valid].any()
    boxes, labels, _ = train.targets(0)
    assert torch.allclose(targets.boxes[0, :3], torch.from_numpy(boxes).float() * images.scales[0].repeat(2))
    assert targets.labels[0, :3].tolist() == labels.tolist()


def test_boxes_go_back_to_the_original_frame(train: CocoIndex) -> None:
    dataset = DetectionDataset(train, BUCKETS)
    images, targets = collate([dataset[0, image] for image in (0, 3, 4)])
    flat = torch.zeros(targets.labels.shape)
    found = Detections(targets.boxes, flat, targets.labels, targets.labels, targets.labels, targets.valid).to_original(images)
    ids = train.image_ids.tolist()
    for row, image_id in enumerate(images.image_ids):
        expected = torch.from_numpy(train.targets(ids.index(image_id))[0]).float()
        assert torch.allclose(found.boxes[row, : len(expected)], expected, atol=1e-3)


def test_crowds_are_marked_and_not_valid(train: CocoIndex) -> None:
    dataset = DetectionDataset(train, BUCKETS)
    crowded = collate([dataset[0, 7]])[1]
    targets = collate([dataset[0, 0], dataset[0, 3]])[1]
    assert (int(crowded.crowd.sum()), int(crowded.valid.sum()), bool(crowded.boxes[0, 0].any())) == (1, 0, True)
    assert targets.crowd.sum(1).tolist() == [0, 0]
    assert targets.valid.sum(1).tolist() == [3, 0]


@pytest.mark.parametrize(("count", "padded"), [(0, 16), (1, 16), (16, 16), (17, 32), (100, 112)])
def test_boxes_are_padded_in_steps(count: int, padded: int, train: CocoIndex) -> None:
    sample = DetectionDataset(train, BUCKETS)[0, 0]
    view = sample.view._replace(boxes=np.ones((count, 4), np.float32), labels=np.ones(count, np.int64), crowd=np.zeros(count, bool))
    targets = collate([sample._replace(view=view)])[1]
    assert targets.boxes.shape == (1, padded, 4)
    assert int(targets.valid.sum()) == count


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_picture_once(workers: int, train: CocoIndex) -> None:
    loader = eval_loader(DetectionDataset(train, BUCKETS), batch_size=3, workers=workers)
    batches = list(loader)
    assert len(loader) == len(batches)
    assert sorted(identity for images, _ in batches for identity in images.image_ids) == sorted(train.image_ids.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_are_told_in_one_line_each(workers: int, copied: CocoIndex) -> None:
    (copied.image_dir / copied.file_names[0]).write_bytes(b"")
    (copied.image_dir / copied.file_names[4]).unlink()
    with pytest.raises(Faults) as caught:
        list(eval_loader(DetectionDataset(copied, BUCKETS), batch_size=8, workers=workers))
    assert multiprocessing.active_children() == []
    assert [type(fault) for fault in caught.value.faults] == [DataError, DataError]
    lines = sorted(caught.value.lines)
    assert "train_000.jpg: the picture has 0 bytes" in lines[0]
    assert "train_004.png: image file not found" in lines[1]
    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_workers_outlive_ctrl_c_and_end_with_the_loader(train: CocoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a trainer that saves first would have it
    try:
        loader = eval_loader(DetectionDataset(train, BUCKETS), batch_size=3, workers=2)
        first = list(loader)
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker.pid or 0, signal.SIGINT)
        assert all(same(one, other) for one, other in zip(first, loader, strict=True))
        assert multiprocessing.active_children() == workers
        with contextlib.suppress(RuntimeError):  # PyTorch tells of a killed worker wherever the main process is just then
            os.kill(workers[0].pid or 0, signal.SIGTERM)
            workers[0].join(5)
        workers[0].join(5)
        assert workers[0].exitcode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    del loader
    assert multiprocessing.active_children() == []


def test_pictures_of_another_size_are_refused(copied: CocoIndex) -> None:
    Image.new("RGB", (64, 96)).save(copied.path(0))
    Image.new("RGB", (30, 20)).save(copied.path(1))
    dataset = DetectionDataset(copied, BUCKETS)
    with pytest.raises(DataError, match=r"train_000.jpg: the picture is 64 x 96 pixels but annotated as 96 x 64 \(turned by EXIF\?\)"):
        _ = dataset[0, 0]
    with pytest.raises(DataError, match=r"is 30 x 20 pixels but annotated as 64 x 96 -> correct width, height and boxes of image id 11"):
        _ = dataset[0, 1]


def test_check_pictures_tells_all_faults_at_once(copied: CocoIndex) -> None:
    check_pictures(copied, decode=True)
    Image.new("RGB", (30, 20)).save(copied.path(1))
    whole = copied.path(4).read_bytes()
    copied.path(4).write_bytes(whole[: len(whole) // 2])
    copied.path(5).unlink()
    with pytest.raises(Faults) as caught:
        check_pictures(copied, decode=False)
    assert len(caught.value.lines) == 2
    with pytest.raises(Faults) as caught:
        check_pictures(copied, decode=True)
    assert len(caught.value.lines) == 3
    with pytest.raises(DataError, match="damaged or truncated"):
        check_pictures(copied, decode=True, images=[0, 4])
    with pytest.raises(Faults) as caught:
        check_pictures(copied, decode=False, images=[1] * 30)
    assert len(caught.value.lines) == 21
    assert "and 10 more pictures" in caught.value.lines[-1]


def test_worker_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 0), (2, 0), (3, 2), (8, 7), (9, 8), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert worker_count("auto") == expected
    assert worker_count(5) == 5


def test_other_programmers_faults_keep_their_kind(train: CocoIndex) -> None:
    dataset = DetectionDataset(train, BUCKETS)
    with pytest.raises(IndexError):
        _ = dataset[0, len(train)]


def test_one_object_of_many_boxes(train: CocoIndex, tmp_path: Path, coco_root: Path) -> None:
    """5,000 boxes in one picture become one padded row."""
    document = json.loads((coco_root / "annotations/instances_train.json").read_text())
    document["annotations"] = [{**document["annotations"][0], "id": number} for number in range(1, 5001)]
    (tmp_path / "many.json").write_text(json.dumps(document))
    index = read_index(tmp_path / "many.json", coco_root / "train")
    assert collate([DetectionDataset(index, BUCKETS)[0, 0]])[1].boxes.shape[1] == 5008
