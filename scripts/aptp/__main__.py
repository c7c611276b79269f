"""Does routing pay? Mixtures of experts beside single architectures, random ones, magnitude and
BK-Small, at equal MACs and equal steps, in the embedded world: docs/aptp.md.

Everything is made by the command line, two cases at a time on one thread each; what is finished is
not made again. All models are scored on the same prompts with the same seeds.

    python -m scripts.aptp --runs runs/aptp
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from scripts.aptp.cases import ALL, TEACHER
from scripts.aptp.experts import by_expert
from scripts.aptp.study import Study, one_thread
from scripts.aptp.tables import comparisons, result_in


def main() -> None:
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
    study = Study(**{name: getattr(arguments, name) for name in names})
    teacher = arguments.runs / TEACHER
    if not teacher.exists():
        study.evaluate("shapes", teacher)
    cases = [case for case in ALL if case.slug in arguments.cases]
    jobs = [(case, seed) for seed in range(arguments.seeds) for case in cases]
    # Processes that are started anew: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=one_thread) as pool:
        folders = list(pool.map(study.scored, *zip(*jobs, strict=True)))
    found = {
        case: [folder for (other, _), folder in zip(jobs, folders, strict=True) if other is case]
        for case in cases
    }
    macs = result_in(teacher).cost["unet"]["total"]["macs"]
    print(comparisons(found, teacher))
    print(f"\n{by_expert(found, prompts=arguments.prompts, macs=macs)}")


if __name__ == "__main__":
    main()
