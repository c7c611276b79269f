"""What each switch brings to a distillation step, rung by rung, at which batch and for which
student; and where the time of the best step goes.
"""

from typing import Any, Final

from bench.cases import Step
from bench.sections.profile import profiled
from bench.sections.rate import Rate, bare_loop, matmul_rate, step_rate
from bench.sections.section import Section
from bench.sections.setting import EAGER
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan

# Each with those before it.
RUNGS: Final[dict[str, dict[str, Any]]] = {
    "bf16 autocast, eager": {},
    "+ bf16 teacher": {"teacher_precision": "bfloat16"},
    "+ channels_last": {"channels_last": True},
    "+ fused AdamW": {"adam": "fused"},
    "+ compile": {"compile": "default"},
    "+ CUDA graphs": {"compile": "reduce-overhead"},
}
COMPILING: Final = ("+ compile", "+ CUDA graphs")
STUDENTS: Final = {"Base": BASE, "Small": SMALL, "Tiny": TINY}
FIRST_SECONDS: Final = {True: 45, False: 12}  # what a measurement needs, compiled or not


def rungs() -> dict[str, Step]:
    """The step at each rung."""
    steps, step = {}, EAGER
    for name, changes in RUNGS.items():
        steps[name] = step = step.changed(changes)
    return steps


def measure(section: Section) -> None:
    """Rungs, sizes, profile, in this order, while there is time."""
    setting, steps = section.setting, rungs()
    matmul, usual = matmul_rate(setting), setting.world.batch
    section.note(f"matmul: {matmul / 1e12:.3g} TFLOP/s of {setting.matmul}^2 matrices")
    found: dict[str, Rate] = {}

    def timed(title: str, step: Step, *, batch: int, student: str, **cells: str) -> Rate:
        rate = step_rate(setting, step, batch=batch, plan=STUDENTS[student])
        cells |= {"student": student, "batch": str(batch)}
        section.row(title, **cells, **rate.cells(matmul))
        return rate

    # The ends first: they say the most if time runs out.
    order = sorted(steps, key=lambda name: ["bf16 autocast, eager", "+ compile"].count(name) == 0)
    for name in order:

        def one(name: str = name, step: Step = steps[name]) -> None:
            found[name] = timed("ladder", step, batch=usual, student="Base", rung=name)

        section.attempt(name, one, seconds=FIRST_SECONDS[name in COMPILING], gpu=name in COMPILING)
    if not found:
        return
    best = max(found, key=lambda name: found[name].images)
    section.attempt(
        f"profile of {best}",
        lambda: _profile(section, steps[best], batch=usual, plan=BASE),
        seconds=FIRST_SECONDS[best in COMPILING],
    )
    others = [("Base", batch) for batch in setting.batches]
    others += [("Small", usual), ("Tiny", usual)]
    others += [(student, batch) for student in ("Small", "Tiny") for batch in setting.batches]
    for title, rung in (("eager", "+ fused AdamW"), ("compiled", best)):
        if title == "compiled" and best not in COMPILING:
            continue
        for student, batch in others:

            def size(
                title: str = title, rung: str = rung, student: str = student, batch: int = batch
            ) -> None:
                timed(f"sizes, {title}", steps[rung], batch=batch, student=student)

            seconds = FIRST_SECONDS[rung in COMPILING]
            section.attempt(f"{student}, batch {batch}, {title}", size, seconds=seconds)


def _profile(section: Section, step: Step, *, batch: int, plan: BlockPlan) -> None:
    with bare_loop(section.setting, step, batch=batch, plan=plan) as runner:
        runner.block(2)
        profiled(section, lambda: runner.block(2))
