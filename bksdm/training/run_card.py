"""The model card of a run: everything it says is read from the run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel

from bksdm.errors import InputError
from bksdm.evaluation.fingerprint import fingerprint, part_hashes
from bksdm.evaluation.results import ModelResult, read_results
from bksdm.export.about import About, about_folder
from bksdm.export.card import TAGS, Card, card_text
from bksdm.export.license import license_of
from bksdm.export.narrow import hollow_unet, narrow_plan
from bksdm.export.pipeline import folder_guidance, load_pipeline
from bksdm.models.cost import Cost, unet_cost, unet_module_cost
from bksdm.models.source import EMBEDDED, TeacherSource, text_tokens, unet_config
from bksdm.surgery import plans
from bksdm.surgery.blocks import dropped_modules
from bksdm.surgery.plan import BlockPlan
from bksdm.surgery.plans import Plan
from bksdm.surgery.width import WidthPlan
from bksdm.training.card_tables import cost_rows, result_table, start_line, time_rows
from bksdm.training.checkpoint import read_checkpoint
from bksdm.training.folder import RunFolder

_WEIGHTS: Final = {
    "ema": "the exponential average of training (EMA)",
    "raw": "those of the last step (raw, no average)",
}
_REMOVED: Final[Mapping[type[Plan], str]] = {
    BlockPlan: "Whole blocks were removed; the rest {}, and {}"
    " ([BK-SDM](https://arxiv.org/abs/2305.15798))",
    WidthPlan: "Heads, channels and modules were removed, as a router chose for its part of the"
    " prompts; the rest {}, and {} ([APTP](https://arxiv.org/abs/2406.12042))",
}
_TAGS: Final[Mapping[type[Plan], Sequence[str]]] = {
    BlockPlan: TAGS,
    WidthPlan: ("aptp", *(tag for tag in TAGS if tag != "bk-sdm")),
}
_NOT_RECORDED: Final = "not recorded as averaged or raw: another version exported them"
_EXPERT_TOLD: Final = (
    "It is one expert of several, made for the prompts that the router sends to it, and worse for"
    " others."
)
_MASKED_TOLD: Final = (
    " It lies here at its teacher's full size, with zeros in place of what was removed: no smaller"
    " and no faster than its teacher; `bksdm export` writes the narrow one."
)
_LIMITS: Final = (
    "For research on small text-to-image models, and for what the teacher's licence allows. The"
    " student has the teacher's limits and biases, and forgets part of what its teacher knows:"
    " compare it with its teacher on your own prompts before you use it. It makes no text, no"
    " facts and no likeness that may be relied on."
)
_SHAPES_LIMITS: Final = (
    "A toy: it draws 64x64 pictures of coloured shapes, from the captions of one small grammar, and"
    " noise for all others. For tests, teaching, and the comparison of methods; nothing said here"
    " holds for photographs."
)


@dataclass(frozen=True, kw_only=True)
class CardWishes:
    """What a card says that no run knows.

    Attributes:
        repository: owner/name, where it will lie.
        revision: branch there; None for main.
        license: as the Hub identifies it; None: what the teacher's settings or card say.
        datasets: Hub ids of the training data.
        checkpoint: whether the checkpoint goes there, too.
        results: results files beside the run's own.
    """

    repository: str
    revision: str | None = None
    license: str | None = None
    datasets: Sequence[str] = ()
    checkpoint: bool = True
    results: Sequence[Path] = ()


def run_card(folder: RunFolder, checkpoint: Path, wishes: CardWishes) -> str:
    """The card of a run, finished or not, as it is at a checkpoint.

    Raises:
        InputError: no licence is known, or a file of the run cannot be read.
    """
    settings, teacher, plan = folder.settings(), folder.teacher(), folder.plan()
    whole = unet_config(teacher)
    exported = (folder.student / "model_index.json").is_file()
    about = about_folder(folder.student) if exported else None
    content = read_checkpoint(checkpoint)
    steps = int(content["global_step"])
    results = _results(folder, wishes)
    costs = _costs(folder, teacher, whole, plan)
    changed = bool(about and about.export.get("identity_mid"))  # costs more than what was timed
    times, machine = time_rows(results[0] if results and not changed else [])
    pictures = sorted(folder.samples.glob("step_*.png"))
    shapes = teacher.path.startswith(EMBEDDED)
    return card_text(
        Card(
            repository=wishes.repository,
            revision=wishes.revision,
            license=license_of(teacher, wanted=wishes.license),
            base_model=_hub_id(teacher),
            datasets=wishes.datasets,
            summary=_summary(teacher, plan, costs, settings, about.step if about else steps),
            teacher=_named(teacher),
            picture=f"samples/{pictures[-1].name}" if pictures else None,
            exported=exported,
            tags=_TAGS[type(plan)],
            narrow=exported and narrow_plan(folder.student) is not None,
            steps=steps,
            max_steps=int(settings["trainer"]["max_steps"]),
            student_steps=about.step if about else (steps if exported else None),
            weights_told=_WEIGHTS[about.weights] if about else _NOT_RECORDED,
            form_told=_form_told(plan, about),
            prompt=str(next(iter(settings["samples"]["prompts"]), "")),
            guidance=folder_guidance(folder.student),
            fp16=bool(about and about.export.get("fp16")),
            single_file=_single_file(folder, about),
            checkpoint=wishes.checkpoint,
            drawing=plans.drawn(whole, plan),
            dropped=_dropped(whole, plan),
            costs=[*cost_rows(*costs), *times],
            machine=machine,
            results=[result_table(models) for models in results],
            training=_training(settings, content["bksdm"]["data"], steps),
            starts=[start_line(each) for each in folder.starts()],
            limits=_SHAPES_LIMITS if shapes else _LIMITS,
        )
    )


def _hub_id(teacher: TeacherSource) -> str | None:
    local = teacher.path.startswith((EMBEDDED, ".", "/", "~")) or Path(teacher.path).exists()
    return None if local or teacher.path.count("/") != 1 else teacher.path


def _named(teacher: TeacherSource) -> str:
    if (name := _hub_id(teacher)) is not None:
        return f"[{name}](https://hf.co/{name})"
    return f"`{teacher.name}`"


def _costs(
    folder: RunFolder, teacher: TeacherSource, whole: Mapping[str, Any], plan: Plan
) -> tuple[Cost, Cost]:
    """Of one U-Net call: the teacher's, and the student's as it lies in the folder."""
    tokens = text_tokens(teacher)
    if (folder.student / "unet" / "config.json").is_file():
        small = hollow_unet(folder.student / "unet", narrow_plan(folder.student))
    else:
        with torch.device("meta"):
            small = plans.empty(whole, plan)
    return unet_cost(whole, tokens=tokens), unet_module_cost(small, tokens=tokens).total


def _summary(
    teacher: TeacherSource,
    plan: Plan,
    costs: tuple[Cost, Cost],
    settings: Mapping[str, Any],
    steps: int,
) -> str:
    method = settings["method"]
    weights = {name: value for name, value in method["weights"].items() if name != "_target_"}
    began = (
        "has the teacher's weights" if method["init"] == "teacher" else "began with fresh weights"
    )
    learnt = (
        f"was distilled from the original for {steps:,} steps"
        if any(value for name, value in weights.items() if name != "task")
        else f"was trained for {steps:,} steps on the data alone, without distillation"
    )
    before, after = (cost.parameters for cost in costs)
    removed = _REMOVED[type(plan)].format(began, learnt)
    return (
        f"A small text-to-image model: the U-Net of {_named(teacher)} with"
        f" {after / 1e6:.4g} M instead of {before / 1e6:.4g} M parameters"
        f" ({100 * (after / before - 1):+.1f} %). {removed}, with bksdm."
    )


def _form_told(plan: Plan, about: About | None) -> str:
    if isinstance(plan, WidthPlan):
        return _EXPERT_TOLD + _MASKED_TOLD * bool(about and about.export.get("masked"))
    if plan.mid:
        return ""
    if about is not None and about.export.get("identity_mid"):
        return "Its mid block does nothing: it is there for tools that cannot do without one."
    return (
        "It has no mid block (`mid_block_type: null`); for tools that need one, `bksdm export"
        " export.identity_mid=true` writes the same model with one that does nothing."
    )


def _single_file(folder: RunFolder, about: About | None) -> str | None:
    name = f"{folder.student.name}.safetensors"
    return name if about is not None and about.export.get("single_file") else None


def _dropped(whole: Mapping[str, Any], plan: Plan) -> str:
    with torch.device("meta"):
        teacher = UNet2DConditionModel.from_config(dict(whole))
        student = plans.empty(whole, plan)
    names = dropped_modules(teacher, plans.weight_map(teacher, student, whole, plan))
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def _results(folder: RunFolder, wishes: CardWishes) -> list[list[ModelResult]]:
    """The run's own, and those that the user names; the last model of each is the student."""
    own = [read_results(folder.results)] if folder.results.is_file() else []
    others = [read_results(file) for file in wishes.results]
    if others:
        weights = fingerprint(part_hashes(load_pipeline(folder.student)))
        for file, models in zip(wishes.results, others, strict=True):
            if models[-1].weights != weights:
                raise InputError(
                    f"results={file} is of other weights than {folder.student}: evaluate that"
                )
    return [*own, *others]


def _training(settings: Mapping[str, Any], data: Mapping[str, Any], steps: int) -> str:
    shards = data["training"]["shards"].values()
    samples = sum(int(each.split()[1]) for each in shards)
    chosen = data["order"].get("selection")
    of = f"{chosen} of {samples:,}" if chosen else f"{samples:,}"
    weights = ", ".join(
        f"{name} {value:g}"
        for name, value in settings["method"]["weights"].items()
        if name != "_target_"
    )
    return (
        f"{steps:,} optimiser steps at batch {settings['data']['global_batch']} over"
        f" {of} captioned pictures in {len(shards)} shards (index"
        f" `{data['training']['hash']}`), seed {settings['seed']}, weights of the losses:"
        f" {weights}; learning rate {settings['optimizer']['lr']:g}, caption dropout"
        f" {settings['data']['caption_dropout']:g}."
    )
