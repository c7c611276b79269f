"""The ablation of the embedded world: variants x seeds at equal steps, one table with means and
spread.

`make ablation` runs it; runs that are finished are not run again. Runs go two at a time, one thread
each. All models are scored on the same prompts with the same seeds as the teacher.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from bksdm.evaluation.measures.attributes import ALL
from bksdm.evaluation.measures.denoising import NAME as DENOISING_LOSS
from bksdm.evaluation.report import table
from bksdm.evaluation.results import RESULTS, read_results

VARIANTS = {
    "small": ["student=small"],
    "small, random init": ["student=small", "method.init=random"],
    "small, no caption dropout": ["student=small", "data.caption_dropout=0"],
    "small, published weights": ["student=small", "method=bk_sdm"],
    "small, task only": ["student=small", "method=task_only"],
    "small, task only, random init": ["student=small", "method=random_init"],
    "base": ["student=base"],
    "tiny": ["student=tiny"],
    "outer pairs only": ["student=outer"],
    "inner pairs and mid only": ["student=inner"],
}


def main() -> None:
    """Train what is missing, score what is trained, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    jobs = [(name, seed) for seed in range(arguments.seeds) for name in arguments.variants]
    with ThreadPoolExecutor(2) as pool:
        scores = list(
            tqdm(pool.map(lambda job: _score(*job, arguments), jobs), total=len(jobs), unit="run")
        )
    found = {
        name: [s for (job, _), s in zip(jobs, scores, strict=True) if job == name]
        for name in arguments.variants
    }
    rows = [
        [
            name,
            *(_spread(values, key) for key in ("all", "denoising_loss", "validation_task")),
        ]
        for name, values in found.items()
    ]
    header = [
        f"{arguments.steps} steps, {arguments.seeds} seeds",
        "all right, %",
        "denoising loss",
        "validation task loss",
    ]
    print(table(rows, header=header))
    print(f"mean (smallest - largest) over seeds; {arguments.prompts} prompts, the same for all")


def _score(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    run = arguments.runs / f"{name.replace(', ', '_').replace(' ', '_')}-{arguments.steps}-{seed}"
    result = run / "ablation.json"
    if not result.exists():
        command = [
            sys.executable,
            "-m",
            "bksdm.cli.main",
            "train",
            *VARIANTS[name],
            f"seed={seed}",
            f"runs_dir={run.parent}",
            f"name={run.name}",
            f"trainer.max_steps={arguments.steps}",
            f"trainer.validate_every_n_steps={arguments.steps}",
            "samples.every_n_steps=0",
            "protocol=none",
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        evaluate = [
            *[sys.executable, "-m", "bksdm.cli.main", "evaluate", f"model={run}", "baseline=null"],
            f"protocol.prompts.count={arguments.prompts}",
            "protocol.prompts.held_out=0",
            "latency=null",
            f"out={run / 'evaluation'}",
        ]
        subprocess.run(evaluate, check=True, stdout=subprocess.DEVNULL, env=environment)
        result.write_text(json.dumps(_scores(run)))
    return dict(json.loads(result.read_text()))


def _scores(run: Path) -> dict[str, float]:
    (file,) = (run / "evaluation").glob(f"*/*/{RESULTS}")
    (evaluated,) = read_results(file)
    scores = {score.name: score.value for score in evaluated.scores}
    with (run / "metrics.csv").open(newline="") as rows:
        validation = [float(row["val/task"]) for row in csv.DictReader(rows) if row.get("val/task")]
    return {
        "all": 100 * scores[ALL],
        "denoising_loss": scores[DENOISING_LOSS],
        "validation_task": validation[-1],
    }


def _spread(values: list[dict[str, float]], key: str) -> str:
    numbers = [value[key] for value in values]
    digits = 1 if key in ("all", "shape") else 4
    mean, low, high = (
        f"{value:.{digits}f}" for value in (statistics.mean(numbers), min(numbers), max(numbers))
    )
    return f"{mean} ({low} - {high})"


if __name__ == "__main__":
    main()
