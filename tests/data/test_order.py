"""The order of pictures: pure, complete, constant in length, and the same however a run is cut up."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_det.data.order import BatchOrder, EvaluationOrder, batches_per_epoch, epoch_batches, evaluation_batches

BUCKETS = np.random.default_rng(0).choice(3, 101, p=[0.1, 0.6, 0.3])


@settings(max_examples=60, deadline=None)
@given(
    buckets=st.lists(st.integers(0, 2), min_size=1, max_size=60),
    batch_size=st.integers(1, 17),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
)
def test_every_picture_comes_and_every_batch_is_full(buckets: list[int], batch_size: int, seed: int, epoch: int) -> None:
    bucket_of_image = np.array(buckets)
    batches = epoch_batches(bucket_of_image, batch_size, seed, epoch)
    assert batches == epoch_batches(bucket_of_image, batch_size, seed, epoch)
    assert len(batches) == batches_per_epoch(bucket_of_image, batch_size)
    assert all(len(batch) == batch_size for batch in batches)
    assert all(len(set(bucket_of_image[batch])) == 1 for batch in batches)
    times = Counter(image for batch in batches for image in batch)
    assert set(times) == set(range(len(buckets)))
    for bucket in set(buckets):  # the filling is spread as evenly as can be
        counts = [times[image] for image in np.flatnonzero(bucket_of_image == bucket)]
        assert max(counts) - min(counts) <= 1


def test_epochs_and_seeds_differ() -> None:
    orders = {str(epoch_batches(BUCKETS, 8, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_order_is_random() -> None:
    """Over many epochs each picture is in the first batch about equally often."""
    first = Counter(image for epoch in range(600) for image in epoch_batches(np.zeros(20, dtype=int), 5, 0, epoch)[0])
    assert set(first) == set(range(20))
    assert all(100 < count < 200 for count in first.values())


def test_going_on_anywhere_gives_the_rest() -> None:
    order = BatchOrder(BUCKETS, batch_size=8, seed=4)
    order.start_at(epoch=2)
    whole = list(order)
    assert len(whole) == len(order) == order.batches_per_epoch
    assert whole == [[(2, image) for image in batch] for batch in epoch_batches(BUCKETS, 8, 4, 2)]
    for batch in (0, 1, len(whole) - 1, len(whole)):
        order.start_at(epoch=2, batch=batch)
        assert len(order) == len(whole) - batch
        assert list(order) == whole[batch:]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_every_batch(world_size: int) -> None:
    ranks = [list(BatchOrder(BUCKETS, batch_size=8, seed=4, rank=rank, world_size=world_size)) for rank in range(world_size)]
    whole = list(BatchOrder(BUCKETS, batch_size=8, seed=4))
    assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == whole


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 17, 101])
def test_evaluation_sees_every_picture_once(world_size: int, count: int) -> None:
    buckets = BUCKETS[:count]
    batches = [batch for rank in range(world_size) for batch in evaluation_batches(buckets, 8, rank=rank, world_size=world_size)]
    assert sorted(chain(*batches)) == list(range(count))
    assert all(1 <= len(batch) <= 8 and len(set(buckets[batch])) == 1 for batch in batches)
    order = EvaluationOrder(buckets, batch_size=8)
    assert sorted(chain(*order)) == [(0, image) for image in range(count)]
    assert len(order) == len(list(order))


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="divides among 3 ranks, got 8"):
        BatchOrder(BUCKETS, batch_size=8, seed=0, world_size=3)
    with pytest.raises(ValueError, match=r"expected a rank in 0..1, got 2"):
        BatchOrder(BUCKETS, batch_size=8, seed=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="at least 1"):
        EvaluationOrder(BUCKETS, batch_size=0)
    order = BatchOrder(BUCKETS, batch_size=8, seed=0)
    for epoch, batch in ((-1, 0), (0, -1), (0, 1000)):
        with pytest.raises(ValueError, match="expected an epoch"):
            order.start_at(epoch=epoch, batch=batch)
