"""What is made of a case: by the command line, in this process."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from bksdm.cli.main import main
from bksdm.export.router import read_router
from scripts.aptp.cases import Case


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
            *[
                f"runs_dir={folder}",
                "name=route",
                "analysis=false",
                f"trainer.max_steps={self.routing}",
            ],
        )
        plans = plans_of(route)
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


def plans_of(route: Path) -> list[str]:
    """Folders of the plans, beside the router's, of codes to which prompts go."""
    if not (route / "router").exists():  # a plan that was made without one
        return ["experts/0"]
    return [plan for plan in read_router(route / "router").plans if plan is not None]


def one_thread() -> None:
    """Two of these processes share the cores."""
    torch.set_num_threads(1)
