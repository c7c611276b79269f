"""Does routing pay? Mixtures of experts beside single architectures, random ones, magnitude and
BK-Small, at equal MACs and equal steps, in the embedded world: docs/aptp.md.

Everything is made by the command line, two cases at a time on one thread each; what is finished is
not made again. All models are scored on the same prompts with the same seeds.

    python -m scripts.aptp --runs runs/aptp
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from bksdm.cli.main import main
from bksdm.export.router import read_router
from scripts.aptp.cases import ALL, TEACHER, Case
from scripts.aptp.tables import comparisons


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all cases share.

    Attributes:
        runs: folder of everything.
        steps: of distillation, shared by a case's experts.
        routing: steps of `bksdm route`.
        prompts: of the scores.
        data: settings of the shards.
    """

    runs: Path
    steps: int
    routing: int
    prompts: int
    data: Sequence[str]

    def bksdm(self, *arguments: object) -> None:
        """Run the command in this process; what it says goes to a log."""
        told = " ".join(map(str, arguments))
        with (self.runs / f"log-{os.getpid()}.txt").open("a") as log:
            print(f"$ bksdm {told}", file=log, flush=True)
            with redirect_stdout(log), redirect_stderr(log):
                sys.argv = ["bksdm", *map(str, arguments)]
                code = main()
        if code:
            raise RuntimeError(f"bksdm {told}: exit code {code}; see {log.name}")

    def scored(self, case: Case, seed: int) -> Path:
        """The folder of a case's scores, which are made if they are missing."""
        out = self.runs / f"{case.slug}-{seed}" / "evaluation"
        if not (out / "done").exists():
            begin = time.monotonic()
            self.evaluate(self.model(case, seed), out)
            (out / "done").write_text(f"{time.monotonic() - begin:.0f} s\n")
        return out

    def evaluate(self, model: str, out: Path) -> None:
        """Score a model."""
        out.mkdir(parents=True, exist_ok=True)
        self.bksdm(
            *["evaluate", f"model={model}", "baseline=null", "latency=null", f"out={out}"],
            *[f"protocol.prompts.count={self.prompts}", "protocol.prompts.held_out=0"],
            *["protocol.sampling.guidance=2", "protocol.measures.distribution=null"],
            *["protocol.measures.latent_mse=null", "protocol.measures.ssim=null"],
        )

    def model(self, case: Case, seed: int) -> str:
        """Make a case's model; its name on the command line."""
        folder = self.runs / f"{case.slug}-{seed}"
        if case.route is None:
            self.train(folder, case.train, steps=self.steps, seed=seed)
            return str(folder / "whole")
        route = folder / "route"
        self.bksdm(
            *["route", *case.route, f"method.target={case.budget}", f"seed={seed}", *self.data],
            *[f"runs_dir={folder}", "name=route", f"trainer.max_steps={self.routing}"],
        )
        plans = _plans(route)
        steps = self.steps if case.each else self.steps // len(plans)
        for plan in plans:
            settings = ["student=expert", f"plan={route / plan}", *case.train]
            self.train(folder, settings, steps=steps, seed=seed, name=Path(plan).name)
        if not (route / "router").exists():
            return str(folder / Path(plans[0]).name)
        self.bksdm(
            *["export", f"mixture={route}", f"out={folder / 'mixture'}"],
            *[f"experts=[{','.join(str(folder / Path(plan).name) for plan in plans)}]"],
        )
        return str(folder / "mixture")

    def train(
        self, folder: Path, settings: Sequence[str], *, steps: int, seed: int, name: str = "whole"
    ) -> None:
        """Distil one student."""
        self.bksdm(
            *["train", *settings, f"seed={seed}", f"runs_dir={folder}", f"name={name}"],
            *[f"trainer.max_steps={steps}", f"trainer.validate_every_n_steps={steps}"],
            *["samples.every_n_steps=0", "protocol=none", "export.fresh_process=false"],
            *["data.remainder=wrap", f"optimizer.warmup_steps={min(20, steps // 5)}", *self.data],
        )


def _plans(route: Path) -> list[str]:
    """Folders of the plans, beside the router's, of codes to which prompts go."""
    if not (route / "router").exists():  # a plan that was made without one
        return ["experts/0"]
    return [plan for plan in read_router(route / "router").plans if plan is not None]


def _alone() -> None:
    torch.set_num_threads(1)


def study() -> None:
    """Make and score what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/aptp"))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--routing", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--data", nargs="*", default=[], help="such as data.shards='lat/train-*'")
    parser.add_argument("--cases", nargs="*", default=[case.slug for case in ALL])
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    names = ("runs", "steps", "routing", "prompts", "data")
    made = Study(**{name: getattr(arguments, name) for name in names})
    teacher = arguments.runs / TEACHER
    if not teacher.exists():
        made.evaluate("shapes", teacher)
    cases = [case for case in ALL if case.slug in arguments.cases]
    jobs = [(case, seed) for seed in range(arguments.seeds) for case in cases]
    # Processes that are started anew: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=_alone) as pool:
        folders = list(pool.map(made.scored, *zip(*jobs, strict=True)))
    found = {
        case: [folder for (other, _), folder in zip(jobs, folders, strict=True) if other is case]
        for case in cases
    }
    print(comparisons(found, teacher))


if __name__ == "__main__":
    study()
