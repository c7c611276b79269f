"""The study's table: each case by its score, and beside the one learned architecture of its budget,
paired by prompt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bksdm.evaluation.comparison import mean_interval
from bksdm.evaluation.measures.attributes import ALL
from bksdm.evaluation.measures.denoising import NAME as DENOISING
from bksdm.evaluation.report import table
from bksdm.evaluation.results import RESULTS, ModelResult, read_items, read_results
from scripts.aptp.cases import ONE, Case

HEADER = ["", "MACs", "seeds", "all right, %", "beside one learned, points", "denoising loss"]


def result_in(folder: Path) -> ModelResult:
    """The one result of an evaluation."""
    (file,) = folder.glob(f"*/*/{RESULTS}")
    (found,) = read_results(file)
    return found


def items(folder: Path) -> dict[str, float]:
    """Of each prompt whether all attributes are right."""
    (place,) = (file.parent for file in folder.glob(f"*/*/{RESULTS}"))
    found = read_items(place)[ALL]
    return dict(zip(found.ids, found.values, strict=True))


def by_prompt(folders: Sequence[Path]) -> NDArray[np.float64]:
    """Each prompt's mean over the seeds, in percent."""
    each = [items(folder) for folder in folders]
    return 100 * np.array([[one[name] for name in sorted(each[0])] for one in each]).mean(0)


def spread(values: NDArray[np.float64], *, sign: str = "") -> str:
    """A mean with its 95 % interval over the prompts."""
    found = mean_interval(tuple(values))
    return f"{found.value:{sign}.1f} [{found.low:{sign}.1f}, {found.high:{sign}.1f}]"


def comparisons(found: Mapping[Case, Sequence[Path]], teacher: Path) -> str:
    """The table: a row a case."""
    whole = result_in(teacher)
    total = whole.cost["unet"]["total"]["macs"]
    rows = [["teacher", "1", "", spread(by_prompt([teacher])), "", _denoising([whole])]]
    references = {case.budget: by_prompt(at) for case, at in found.items() if case.name == ONE}
    for case, folders in found.items():
        results = [result_in(folder) for folder in folders]
        macs = np.mean([result.cost["unet"]["total"]["macs"] / total for result in results])
        values, reference = by_prompt(folders), references.get(case.budget)
        beside = "" if reference is None else spread(values - reference, sign="+")
        row = [case.name, f"{macs:.3f}", str(len(folders)), spread(values)]
        rows.append([*row, "" if case.name == ONE else beside, _denoising(results)])
    foot = "[low, high]: 95 % bootstrap over prompts of each prompt's mean over the seeds"
    return f"{table(rows, header=HEADER)}\n\n{foot}"


def _denoising(results: Sequence[ModelResult]) -> str:
    scores = [result.score(DENOISING) for result in results]
    return f"{np.mean([score.value for score in scores if score is not None]):.4f}"
