import tracemalloc
from typing import Any

import pytest

from bksdm.data.order import Order
from bksdm.errors import InputError


def order(**changes: Any) -> Order:
    return Order(**({"counts": (5, 9, 7, 4), "seed": 1, "global_batch": 4, "window": 2} | changes))  # type: ignore[arg-type]


def epoch(o: Order, number: int) -> list[tuple[int, int]]:
    return [o.sample(number * o.epoch_size + i) for i in range(o.epoch_size)]


def test_an_epoch_has_no_sample_twice_and_drops_only_the_remainder() -> None:
    o = order()
    seen = epoch(o, 0)
    assert len(set(seen)) == len(seen) == 24
    assert all(row < o.counts[shard] for shard, row in seen)


def test_epochs_differ_and_drop_different_samples() -> None:
    o = order()
    assert epoch(o, 0) != epoch(o, 1)
    everything = set().union(*(epoch(o, number) for number in range(8)))
    assert len(everything) == 25


def test_the_order_is_a_function_of_the_seed() -> None:
    assert epoch(order(), 0) == epoch(order(), 0)
    assert epoch(order(), 0) != epoch(order(seed=2), 0)


def test_a_window_mixes_its_shards() -> None:
    first = epoch(order(counts=(50, 50)), 0)[:20]
    assert {shard for shard, _ in first} == {0, 1}


@pytest.mark.parametrize(("batch", "world"), [(4, 1), (2, 1), (1, 2), (2, 2), (1, 4)])
def test_processes_and_accumulation_partition_the_same_global_batches(
    batch: int, world: int
) -> None:
    o = order()
    steps: list[set[int]] = [set() for _ in range(5)]
    for rank in range(world):
        micro = list(
            o.micro_batches(first_step=2, last_step=5, batch=batch, rank=rank, world=world)
        )
        per_step = o.accumulation(batch, world)
        for i, positions in enumerate(micro):
            steps[2 + i // per_step] |= set(positions)
    assert steps == [set(), set(), set(range(8, 12)), set(range(12, 16)), set(range(16, 20))]


def test_wrapping_shows_every_sample_and_repeats_the_first() -> None:
    o = order(remainder="wrap")
    assert (o.epoch_size, order().epoch_size) == (28, 24)
    seen = epoch(o, 0)
    assert len(set(seen)) == 25
    assert seen[25:] == seen[:3]
    assert o.sample_seed(25) != o.sample_seed(0)
    tiny = order(counts=(3,), global_batch=8, remainder="wrap")
    assert [row for _, row in epoch(tiny, 0)].count(0) >= 2


def test_empty_shards_are_passed_over() -> None:
    seen = epoch(order(counts=(0, 5, 0, 0, 9, 7, 0, 4, 0)), 0)
    assert len(set(seen)) == 24
    assert not {shard for shard, _ in seen} & {0, 2, 3, 6, 8}


@pytest.mark.parametrize("lanes", [2, 4])
def test_lanes_hold_every_sample_once_and_keep_their_own_shards(lanes: int) -> None:
    o = order(counts=(8,) * 16, global_batch=8, lanes=lanes, window=2)
    seen = epoch(o, 1)
    assert len(set(seen)) == len(seen) == 128
    share = 8 // lanes
    of_lane = [{seen[p][0] for p in range(128) if p % 8 // share == lane} for lane in range(lanes)]
    assert sum(map(len, of_lane)) == 16  # no shard is in two lanes
    assert not set.intersection(*of_lane)


def test_a_process_reads_the_shards_of_its_lanes_alone() -> None:
    o = order(counts=(8,) * 16, global_batch=8, lanes=4, window=2)
    read = []
    for rank in range(4):
        batches = o.micro_batches(first_step=0, last_step=16, batch=1, rank=rank, world=4)
        read.append({o.sample(position)[0] for positions in batches for position in positions})
    assert sum(map(len, read)) == 16
    whole = order(counts=(8,) * 16, global_batch=8, window=2)
    batches = whole.micro_batches(first_step=0, last_step=16, batch=1, rank=0, world=4)
    assert len({whole.sample(position)[0] for positions in batches for position in positions}) > 12


def test_the_shards_ahead_are_those_that_are_read_next() -> None:
    o = order(counts=(8,) * 16, global_batch=8, window=2)
    read = list(dict.fromkeys(o.sample(position)[0] for position in range(20, 64)))
    ahead = o.shards_ahead([20], windows=3)
    assert len(ahead) == 6
    assert set(ahead) == set(read[: len(ahead)])


def test_the_shards_ahead_are_those_of_all_lanes_of_a_batch() -> None:
    o = order(counts=(8,) * 16, global_batch=8, window=2, lanes=4)
    ahead = o.shards_ahead(range(16, 24), windows=2)
    assert set(ahead) == set(range(16))
    first = o.shards_ahead(range(16, 18), windows=2)
    assert set(first) == {o.sample(position)[0] for step in range(16) for position in (8 * step,)}


def test_the_shards_ahead_go_on_into_the_next_epoch() -> None:
    o = order(counts=(8,) * 16, global_batch=8, window=2)
    last = o.epoch_size - 8
    following = {o.sample(position)[0] for position in range(o.epoch_size, o.epoch_size + 16)}
    assert set(o.shards_ahead(range(last, last + 8), windows=2)) >= following


def test_a_billion_samples_need_no_list_of_them() -> None:
    """Time and memory of single ranks are in docs/performance.md."""
    o = order(counts=(10_000,) * 100_000, global_batch=65_536, lanes=128, window=8)
    tracemalloc.start()
    seen = {o.sample(1_000_000 * 65_536 + slot) for slot in range(0, 65_536, 1024)}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(seen) == 64
    assert peak < 100 * 2**20


def test_sample_seeds_differ_by_position_and_by_seed() -> None:
    seeds = {order(seed=s).sample_seed(p) for s in range(3) for p in range(100)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 26}, "less than one global batch"),
        ({"global_batch": 0}, "at least 1"),
        ({"lanes": 3}, "no multiple of data.lanes=3"),
        ({"lanes": 0}, "data.lanes=0"),
        ({"remainder": "keep"}, "drop or wrap"),
    ],
)
def test_impossible_batches_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        order(**changes)


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="no multiple"):
        order().accumulation(3, 1)
