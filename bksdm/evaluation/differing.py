"""The pictures in which a model differs most from its baseline, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bksdm.atomic import replacing
from bksdm.evaluation.comparison import differ_most
from bksdm.evaluation.gallery import Gallery
from bksdm.evaluation.grid import grid
from bksdm.evaluation.prompts import Prompt
from bksdm.evaluation.report import number
from bksdm.evaluation.score import Score

SHEET: Final = "differ-most.png"
PAIRS: Final = 12


def write_differing(
    models: tuple[tuple[str, Gallery, Score], tuple[str, Gallery, Score]], prompts: Sequence[Prompt]
) -> Path | None:
    """Write the sheet of a model beside its baseline's pictures into the model's folder: the worst
    losses by the score, then the best wins.

    Args:
        models: name, pictures and score of the baseline, then of the model.
        prompts: all of the protocol's.

    Returns:
        The file; None where no prompt's score differs.
    """
    (first, theirs, before), (second, ours, after) = models
    by_id = {prompt.id: prompt for prompt in prompts}
    rows = [row for row in differ_most(after, before, PAIRS) if row[0] in by_id]
    if not rows:
        return None
    shown = [by_id[item] for item, _ in rows]
    unit = " points" if after.percent else ""
    sheet = grid(
        {
            first: list(theirs.read(shown).pixels),
            # A model of the same name must not take the place of its baseline.
            second if second != first else f"{second} (2)": list(ours.read(shown).pixels),
        },
        [prompt.text for prompt in shown],
        [
            f"{after.name}: {number(change, percent=after.percent, signed=True)}{unit}"
            for _, change in rows
        ],
    )
    path = ours.folder / SHEET
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")
    return path
