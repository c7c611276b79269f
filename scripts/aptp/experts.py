"""The study's mixtures expert by expert: does a small expert do worse, on prompts that are no
harder?
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bksdm.evaluation.prompts import ShapesPrompts
from bksdm.evaluation.report import table
from bksdm.export.mixture_folder import load_mixture, read_mixture_record
from scripts.aptp.cases import ONE, Case
from scripts.aptp.tables import items

SEED = 1_000_000  # conf/protocol/shapes.yaml


def by_expert(found: Mapping[Case, Sequence[Path]], *, prompts: int, macs: float) -> str:
    """A row an expert of each mixture, from the smallest to the largest, over the seeds: its share
    of the MACs and of the prompts, how many of them are right, and of the same prompts by the one
    learned architecture of its seed.

    Args:
        found: evaluations of the cases, one a seed.
        prompts: of the scores.
        macs: of the teacher.
    """
    texts = {
        each.id: each.text for each in ShapesPrompts(count=prompts, held_out=0, seed=SEED).read()
    }
    ones = {case.budget: folders for case, folders in found.items() if case.name == ONE}
    rows = []
    for case, folders in found.items():
        seeds = [
            _experts(folder, one, texts, macs=macs)
            for folder, one in zip(folders, ones.get(case.budget, ()), strict=False)
            if (folder.parent / "mixture").is_dir()
        ]
        sizes = {len(seed) for seed in seeds}
        if len(sizes) != 1 or sizes == {1}:
            continue  # none, or codes without prompts
        for rank, values in enumerate(np.array(seeds).transpose(1, 0, 2), start=1):
            share, mine = values[:, :2].mean(0)
            # All seeds' prompts as one: a seed with few counts little, one without none.
            scores = (values[:, 1:2] * values[:, 2:]).sum(0) / values[:, 1].sum() if mine else None
            row = [f"{case.name}, {case.budget:.0%}", f"{rank}", f"{share:.2f}", f"{mine:.1%}"]
            rows.append([*row, *(["-"] * 2 if scores is None else map("{:.1f}".format, scores))])
    header = ["", "expert", "MACs", "prompts", "all right, %", "by one learned, %"]
    return table(rows, header=header)


def _experts(
    folder: Path, one: Path, texts: Mapping[str, str], *, macs: float
) -> list[tuple[float, float, float, float]]:
    """Of each expert, by its MACs: share of MACs, share of prompts, and both scores on them."""
    place = folder.parent / "mixture"
    mine, theirs = items(folder), items(one)
    routes = dict(zip(mine, load_mixture(place).route([texts[each] for each in mine]), strict=True))
    rows = []
    for record in sorted(read_mixture_record(place).experts, key=lambda record: record.macs):
        own = [each for each, code in routes.items() if code == record.code]
        right = [100 * sum(of[each] for each in own) / max(1, len(own)) for of in (mine, theirs)]
        rows.append((record.macs / macs, len(own) / len(routes), *right))
    return rows
