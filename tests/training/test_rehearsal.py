import time
from collections.abc import Iterator

import torch

from bench.memory import CASES, Case
from bksdm.batch import TextImageBatch
from bksdm.training.rehearsal import Rehearsal, timed_steps

CASE = CASES["shapes, latents"]


def rehearsal(case: Case = CASE) -> Rehearsal:
    module = case.build()
    module.prepare(torch.device("cpu"))
    return Rehearsal(module, precision=case.precision, ema_decay=0.9, max_steps=9)


def batch(first: int, count: int) -> TextImageBatch:
    seeds = torch.arange(first, first + count)
    shaped = Case(teacher="shapes", resolution=64, batch=count, latents=True).shape()
    return shaped.batch(seeds)


def test_micro_batches_make_the_step_of_the_whole_batch() -> None:
    whole, parts = rehearsal(), rehearsal()
    whole.step([batch(0, 4)])
    parts.step([batch(0, 2), batch(2, 2)])
    gradients = [
        torch.cat([each.grad.flatten() for each in one.module.student.parameters()])  # type: ignore[union-attr]
        for one in (whole, parts)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_a_step_changes_weights_and_average() -> None:
    once = rehearsal()
    before = [each.clone() for each in once.module.student.parameters()]
    once.step([batch(0, 2)])
    after = list(once.module.student.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert once.ema.optimization_step == 1


def test_waiting_for_data_is_told_apart() -> None:
    def slow() -> Iterator[TextImageBatch]:
        for first in range(5):
            time.sleep(0.1)
            yield batch(first, 1)

    times = list(timed_steps(rehearsal(), slow(), accumulation=2))
    assert len(times) == 2  # the fifth micro-batch makes no step
    for each in times:
        assert 0.2 <= each.data_wait < each.seconds
