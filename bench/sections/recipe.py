"""Our step beside the reference recipe on the same device, from batches in memory."""

from typing import Final

from bench.sections.ladder import COMPILING, rungs
from bench.sections.rate import Rate, matmul_rate, reference_rate, step_rate
from bench.sections.section import Section

GOAL: Final = 5.0


def measure(section: Section) -> None:
    """The reference at its batches, ours at its usual one, eager and compiled."""
    setting, steps = section.setting, rungs()
    matmul = matmul_rate(setting)
    theirs: list[Rate] = []

    def reference(batch: int) -> None:
        theirs.append(reference_rate(setting, batch=batch))
        section.row(
            "recipe", step="reference", batch=str(batch), **theirs[-1].cells(matmul), ratio="1"
        )

    def ours(rung: str) -> None:
        batch, best = setting.world.batch, max(rate.images for rate in theirs)
        rate = step_rate(setting, steps[rung], batch=batch)
        ratio = f"{rate.images / best:.2f}"
        section.row(
            "recipe", step=f"ours, {rung}", batch=str(batch), **rate.cells(matmul), ratio=ratio
        )

    for batch in setting.reference:
        section.attempt(
            f"reference, batch {batch}", lambda batch=batch: reference(batch), seconds=15
        )
    if not theirs:
        return
    section.note(f"ratio: of images/s to the faster reference; goal {GOAL:g}")
    for rung in ("+ compile", "+ fused AdamW"):
        compiles = rung in COMPILING
        section.attempt(rung, lambda rung=rung: ours(rung), seconds=15, gpu=compiles)
