import pytest

from bksdm.data.order import Order
from bksdm.errors import InputError


def order(**changes: object) -> Order:
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


def test_sample_seeds_differ_by_position_and_by_seed() -> None:
    seeds = {order(seed=s).sample_seed(p) for s in range(3) for p in range(100)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"global_batch": 26}, "less than one global batch"), ({"global_batch": 0}, "at least 1")],
)
def test_impossible_batches_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        order(**changes)


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="no multiple"):
        order().accumulation(3, 1)
