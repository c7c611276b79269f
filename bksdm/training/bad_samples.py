"""Counts the bad samples of a run, says so now and then, and stops it when there are too many."""

import logging
import time
from collections import Counter
from typing import Any, Final

import pytorch_lightning as pl
from scipy.stats import binom
from torch import Tensor

from bksdm.batch import Fault, TextImageBatch
from bksdm.errors import InputError, ToldElsewhereError
from bksdm.training.module import StepModule
from bksdm.training.peers import Peers
from bksdm.training.steps import StepCallback

log = logging.getLogger(__name__)
# How unlikely the count must be, were the true share at the limit: a run of 50,000 steps should
# not stop at its first batch for one bad sample among 256.
SIGNIFICANCE: Final = 1e-3
SECONDS_BETWEEN_LINES: Final = 60.0

Key = tuple[str, str]  # shard, reason


class BadSamples(StepCallback):
    """Adds up what every process has met; goes into checkpoints.

    Args:
        max_fraction: share of bad samples above which the run stops.
        every_n_steps: how often processes compare their counts; one process looks at every step.
        global_batch: samples an optimiser step.
        peers: the processes.
    """

    def __init__(
        self, *, max_fraction: float, every_n_steps: int, global_batch: int, peers: Peers
    ) -> None:
        self.peers = peers
        self.max_fraction = max_fraction
        self.every_n_steps = every_n_steps
        self.global_batch = global_batch
        self._before: Counter[Key] = Counter()  # in earlier sessions of the run, by all processes
        self._own: Counter[Key] = Counter()
        self._unfinished: list[Fault] = []
        self._of_validation: set[Fault] = set()
        self._example = ""
        self._said_at = -SECONDS_BETWEEN_LINES
        self._said = 0

    def totals(self) -> Counter[Key]:
        """Bad samples by shard and reason, over all processes. All must call it together."""
        return sum(self.peers.gathered(self._own), Counter(self._before))

    def on_micro_batch(self, outputs: dict[str, Tensor], batch: TextImageBatch) -> None:
        """Count."""
        del outputs
        self._unfinished += batch.faults

    def on_step_end(self, trainer: pl.Trainer, module: StepModule) -> None:
        """Compare."""
        del module
        # Whole steps alone: a resumed run reads the others again.
        self._own.update((fault.shard, fault.reason) for fault in self._unfinished)
        self._example = next((fault.key for fault in self._unfinished), self._example)
        self._unfinished.clear()
        step = trainer.global_step
        if trainer.world_size > 1 and step % self.every_n_steps and step < trainer.max_steps:
            return
        self.compare(self.totals(), seen=step * self.global_batch)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TextImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say it: the samples that stand in make another validation set."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        new = [fault for fault in batch.faults if fault not in self._of_validation]
        self._of_validation.update(new)
        for fault in new:
            log.warning(
                "validation sample %s of %s is bad (%s); another stands in",
                fault.key,
                fault.shard,
                fault.reason,
            )

    def compare(self, totals: Counter[Key], *, seen: int) -> None:
        """Warn of new bad samples, and stop above the limit.

        Raises:
            InputError: more are bad than `max_fraction` of those seen can explain.
        """
        bad = totals.total()
        if bad > self._said and time.monotonic() - self._said_at >= SECONDS_BETWEEN_LINES:
            self._said, self._said_at = bad, time.monotonic()
            if self.peers.process.first:
                said = described(totals, seen=seen, example=self._example)
                log.warning("%s; others stood in", said)
        if bad and binom.sf(bad - 1, seen, self.max_fraction) < SIGNIFICANCE:
            told = (
                f"{described(totals, seen=seen)}: more than"
                f" data.max_bad_fraction={self.max_fraction:g} allows; look with `bksdm check`,"
                " make or leave out the shard, or raise the limit"
            )
            raise InputError(told) if self.peers.process.first else ToldElsewhereError(told)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"bad": [[*key, count] for key, count in sorted(self.totals().items())]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._before = Counter({(shard, reason): n for shard, reason, n in state_dict["bad"]})
        self._said = self._before.total()


def described(totals: Counter[Key], *, seen: int, example: str = "") -> str:
    """How many are bad, why, and where most of them are."""
    reasons: Counter[str] = Counter()
    shards: Counter[str] = Counter()
    for (shard, reason), count in totals.items():
        reasons[reason] += count
        shards[shard] += count
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    worst, count = shards.most_common(1)[0]
    return (
        f"{totals.total()} of {seen} samples are bad ({why}), most in {worst} ({count})"
        f"{f', e.g. {example}' * bool(example)}"
    )
