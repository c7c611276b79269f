"""Put a mixture together: a router's run and its trained experts as one folder, written whole or
not at all, and read back before it gets its name.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPTextModel

from bksdm.errors import InputError
from bksdm.export.about import about_folder
from bksdm.export.mixture_folder import (
    ANALYSIS,
    MIXTURE,
    ROUTER,
    ExpertRecord,
    Mixture,
    expert_folder,
    load_mixture,
    plan_hash,
    write_mixture_record,
)
from bksdm.export.narrow import PLAN, narrow_networks, read_plan
from bksdm.export.pipeline import write_guidance
from bksdm.export.router import MEANING, WEIGHTS, read_router
from bksdm.export.whole import open_all_to_others, refuse_others, replace_folder, scratch_folder
from bksdm.models.cost import parameter_count, unet_module_cost
from bksdm.models.teacher import Teacher, weights_hash


@dataclass(frozen=True, kw_only=True)
class TrainedExpert:
    """An expert that is ready.

    Attributes:
        code: of the router.
        folder: the diffusers folder of its student, narrow.
        share: of the training prompts.
    """

    code: int
    folder: Path
    share: float


def export_mixture(
    route: Path,
    experts: Sequence[TrainedExpert],
    around: Teacher,
    folder: Path,
    *,
    guidance: float | None,
) -> Mixture:
    """Write the folder, read it back, and only then give it its name.

    Args:
        route: folder of the router's run.
        experts: of every code to which prompts go.
        around: whose VAE, text encoder, tokenizer and scheduler they share.
        folder: to write, or to replace.
        guidance: classifier-free guidance scale that suits it; None says nothing.

    Raises:
        InputError: the folder holds what we did not write, or an expert is missing, of another
            plan or teacher, or not narrow.
        RuntimeError: what was written differs.
    """
    saved, folder = read_router(route / ROUTER), folder.resolve()
    refuse_others(folder, mark=MIXTURE)
    by_code = {expert.code: expert for expert in experts}
    wanted = {code: plan for code, plan in enumerate(saved.plans) if plan is not None}
    _check(route, wanted, by_code, teacher=dict(saved.teacher))
    for code in wanted:
        _check_text(by_code[code].folder, around)
    with scratch_folder(folder, "tmp") as temporary:
        (temporary / ROUTER).mkdir()
        for name in (MEANING, WEIGHTS):
            shutil.copy2(route / ROUTER / name, temporary / ROUTER / name)
        for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
            getattr(around, part).save_pretrained(temporary / part)
        if guidance is not None:
            write_guidance(temporary, guidance)
        if (route / ANALYSIS).is_file():
            shutil.copy2(route / ANALYSIS, temporary / ANALYSIS)
        tokens = around.tokenizer.model_max_length
        records = tuple(_copied(by_code[c], temporary, tokens=tokens) for c in sorted(wanted))
        mixture = Mixture(teacher=saved.teacher, experts=records)
        write_mixture_record(temporary, mixture)
        open_all_to_others(temporary)
        _prove(temporary, mixture)
        replace_folder(folder, temporary)
    return mixture


def _check(
    route: Path,
    wanted: Mapping[int, str],
    experts: Mapping[int, TrainedExpert],
    *,
    teacher: dict[str, Any],
) -> None:
    """Each code's expert is there, narrow, of its plan, and cut from the router's teacher."""
    for code, plan in wanted.items():
        expert = experts.get(code)
        if expert is None:
            raise InputError(
                f"mixture={route}: no trained expert of code {code}; train it (bksdm train"
                f" student=expert plan={route / plan}), or name its run in experts="
            )
        mine = expert.folder / "unet" / PLAN
        if not mine.is_file():
            raise InputError(
                f"{expert.folder}: no {mine.name} in its unet/; expected a narrow student, exported"
                " without export.masked"
            )
        about = about_folder(expert.folder)
        if about is not None and {name: about.teacher.get(name) for name in teacher} != teacher:
            raise InputError(
                f"{expert.folder} is of the teacher {about.teacher['path']}, the router of"
                f" {teacher['path']}; train it again, or name the right run in experts="
            )
        if read_plan(mine) != read_plan(route / plan / PLAN):
            raise InputError(
                f"{expert.folder} was cut to another plan than {route / plan}; train it again, or"
                " name the right run in experts="
            )


def _check_text(folder: Path, around: Teacher) -> None:
    """An expert was trained with the text states that all of a mixture share."""
    own = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype="auto").state_dict()
    shared = around.text_encoder.state_dict()
    if own.keys() != shared.keys() or any(
        not shared[name].to(own[name].dtype).equal(own[name]) for name in own
    ):
        raise InputError(
            f"{folder} has a text encoder of its own, of which a mixture has one for all; train the"
            " expert without a pruned method.init"
        )


def _copied(expert: TrainedExpert, mixture: Path, *, tokens: int) -> ExpertRecord:
    place = expert_folder(mixture, expert.code)
    shutil.copytree(expert.folder / "unet", place / "unet")
    unet = narrow_networks(expert.folder)["unet"]
    about = about_folder(expert.folder)
    return ExpertRecord(
        code=expert.code,
        share=expert.share,
        parameters=parameter_count(unet),
        macs=unet_module_cost(unet, tokens=tokens).total.macs,
        step=0 if about is None else about.step,
        weights=weights_hash(unet),
        plan=plan_hash(read_plan(place / "unet" / PLAN).to_json()),
    )


def _prove(folder: Path, mixture: Mixture) -> None:
    pipeline = load_mixture(folder, in_memory=1)
    for each in mixture.experts:
        try:
            pipeline.unet.expert(each.code)  # which compares the weights
        except InputError as error:
            raise RuntimeError(f"expert {each.code} does not reload: {error}") from error
