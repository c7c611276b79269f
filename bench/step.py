"""Training steps in ratios measured in one run: ours against a bare loop of the same maths, against
the reference recipe, and with each switch on and off. `make bench`; the cases are in `bench.cases`.

The two sides of a case take turns in blocks of steps, so that the machine's moods hit both.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.cases import CASES, Case, Side, Step
from bench.ours import ThroughTrainer
from bench.patience import ImpatientError, patience
from bench.runners import BareLoop, Bench, Reference, Runner
from bench.world import WORLDS, drawn_shards
from bksdm.errors import InputError
from bksdm.evaluation.report import table
from bksdm.models.teacher import load_teacher
from bksdm.training.speed import SpeedSettings

CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
# What a machine without the kernel, the compiler, the package or the memory answers with.
CANNOT_RUN = (InputError, RuntimeError, ImportError, NotImplementedError)


@dataclass(frozen=True)
class Turns:
    """How often, how long, and how many seconds the first turn of a side may take."""

    turns: int
    steps: int
    patience: int


@dataclass(frozen=True)
class Measured:
    """Images/s of both sides, turn by turn."""

    this: list[float]
    against: list[float]

    @property
    def ratios(self) -> list[float]:
        """This over against."""
        return [a / b for a, b in zip(self.this, self.against, strict=True)]


def measured(bench: Bench, case: Case, turns: Turns, ours: Runner) -> Measured:
    """One case; the first block of each side warms up, and is not counted."""
    runners = [_runner(bench, side, ours) for side in (case.this, case.against)]
    images = turns.steps * bench.world.batch
    rates: tuple[list[float], list[float]] = ([], [])
    try:
        for runner in runners:
            try:
                with patience(turns.patience):
                    runner.block(turns.steps)
            except ImpatientError as error:
                raise InputError(f"its first block takes {error} (--patience)") from error
        for turn in range(turns.turns):
            for which in (0, 1) if turn % 2 else (1, 0):
                rates[which].append(images / runners[which].block(turns.steps))
    finally:
        for runner in runners:
            if runner is not ours:
                runner.close()
    return Measured(*rates)


def _runner(bench: Bench, side: Side, ours: Runner) -> Runner:
    step = bench.world.step.changed(side.changes)
    return ours if step == bench.world.step else _of_kind(bench, step)


def _of_kind(bench: Bench, step: Step) -> Runner:
    if step.loop == "trainer":
        return ThroughTrainer(bench, step)
    return BareLoop(bench, step) if step.loop == "bare" else Reference(bench, step)


def rows(bench: Bench, cases: Sequence[Case], turns: Turns) -> tuple[list[list[str]], list[str]]:
    """The table's rows, and why those with dashes have none."""
    ours = _of_kind(bench, bench.world.step)
    result, notes = [], []
    for case in cases:
        name = f"{case.this.label} / {case.against.label}"
        goal = "" if case.goal is None else f"{case.goal:g}"
        begin = time.perf_counter()
        try:
            if case.processes > 1:
                raise InputError(f"needs {case.processes} processes; this is one")
            found = measured(bench, case, turns, ours)
        except CANNOT_RUN as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            notes.append(f"- {case.name}: {line[:160]}")
            result.append([name, "-", "-", "-", goal])
        else:
            low, median, high = statistics.quantiles(found.ratios, n=4, method="inclusive")
            rates = [f"{statistics.median(rate):.1f}" for rate in (found.this, found.against)]
            result.append([name, *rates, f"{median:.2f} ({low:.2f} - {high:.2f})", goal])
        print(f"{case.name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        gc.collect()
    ours.close()
    return result, notes


def main() -> None:
    """Print the table."""
    arguments = _arguments()
    warnings.filterwarnings("ignore")
    chosen = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    world, device = WORLDS[arguments.world], torch.device(arguments.device)
    turns = Turns(arguments.turns, arguments.steps, arguments.patience)
    if arguments.quick:
        turns = replace(turns, turns=2, steps=1)
    teacher = load_teacher(world.source())
    with tempfile.TemporaryDirectory() as name:
        shards = drawn_shards(Path(name), teacher, batch=world.batch, device=device)
        lines, notes = rows(
            Bench(world, teacher, shards, device, CLOCKS[arguments.clock]), chosen, turns
        )
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(
        f"{world.teacher}, batch {world.batch}, {where}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; {turns.turns} turns of {turns.steps} steps, "
        f"{arguments.clock} clock\n"
        f"our step here: {described(world.step.speed)}, {world.step.precision}\n"
    )
    header = ["this / against", "images/s", "images/s", "ratio (quartiles)", "goal"]
    print("\n".join([table(lines, header=header), *([""] * bool(notes)), *notes]))


def described(speed: SpeedSettings) -> str:
    """The switches that are on."""
    plain = vars(SpeedSettings())
    on = [f"{name}={value}" for name, value in vars(speed).items() if value != plain[name]]
    return ", ".join(on) or "every switch off"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help="; ".join(c.name for c in CASES))
    parser.add_argument("--world", choices=WORLDS, default="shapes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="a block")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="process: CPU seconds of one thread, where others use the machine, too",
    )
    parser.add_argument("--patience", type=int, default=90, help="seconds for a first block")
    parser.add_argument("--quick", action="store_true", help="2 turns of 1 step: does it run?")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no case {sorted(unknown)}; expected some of {[c.name for c in CASES]}")
    alone = arguments.device == "cpu" and torch.get_num_threads() == 1
    if arguments.clock == "process" and not alone:
        parser.error("--clock process: expected the CPU and OMP_NUM_THREADS=1")
    if arguments.turns < 2:
        parser.error("--turns: quartiles need at least 2")
    return arguments


if __name__ == "__main__":
    main()
