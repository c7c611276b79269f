"""A student as a stock diffusers folder, written whole or not at all, and proven before it gets its
name.
"""

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bksdm import expected
from bksdm.errors import InputError
from bksdm.export.about import ABOUT, About, write_about
from bksdm.export.compare import compare, same_answers
from bksdm.export.narrow import write_pipeline
from bksdm.export.original import write_original
from bksdm.export.pipeline import assemble, load_pipeline, write_guidance
from bksdm.export.proof import Claim, prove
from bksdm.export.sparse import write_sparsity
from bksdm.export.stranger import picture
from bksdm.export.whole import (
    open_all_to_others,
    refuse_others,
    replace_folder,
    scratch_folder,
)
from bksdm.models.teacher import Teacher
from bksdm.surgery.identity_mid import with_identity_mid
from bksdm.surgery.narrow import fill_masked
from bksdm.surgery.plans import Plan
from bksdm.surgery.sparse.plan import SparsityPlan
from bksdm.surgery.width import WidthPlan

FP16: Final = "fp16"
_ROUNDING: Final = 1e-3  # sums over units with zeros among them are rounded in another order
_NETWORKS: Final = ("unet", "vae", "text_encoder")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is written beside the fp32 folder, and how it is proven.

    Attributes:
        fp16: the weights in half precision, too (variant="fp16").
        identity_mid: a mid block that does nothing, for tools that need one; outputs are equal.
        single_file: one file in the original Stable Diffusion layout, too.
        masked: a narrow student at its teacher's full size, which stock diffusers reads: what a
            unit that has gone would add is zero. It is no smaller and no faster.
        fresh_process: prove the export in a process of its own, without bksdm; else in this one. A
            narrow folder is read back here in any case: nobody else can.
    """

    fp16: bool = False
    identity_mid: bool = False
    single_file: bool = False
    masked: bool = False
    fresh_process: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            expected.switch(f"export.{name}", value)

    def narrow(self, plan: Plan) -> WidthPlan | None:
        """The plan, where the folder will hold a narrow U-Net.

        Raises:
            InputError: a student of this plan has no such form.
        """
        if not isinstance(plan, WidthPlan):
            if self.masked:
                raise InputError(
                    "export.masked=true: the student is stock already; only experts"
                    " (student=expert) are narrow, leave it out"
                )
            return None
        if self.masked:
            return None
        for name in ("fp16", "identity_mid", "single_file"):
            if getattr(self, name):
                raise InputError(
                    f"export.{name}=true: the student is narrow, and only bksdm reads that, in"
                    " fp32; leave it out, or write a stock folder with export.masked=true"
                )
        return plan

    def told(self, plan: Plan) -> str:
        """What an export has, and how it was proven, in words."""
        if self.narrow(plan) is not None:
            return (
                "narrow: read by bksdm alone, export.masked=true writes a stock one; reloaded and"
                " compared in this process, bit for bit"
            )
        more = {
            "with fp16 variant": self.fp16,
            "with an identity mid block": self.identity_mid,
            "with a single file": self.single_file,
            "masked at full size": self.masked,
        }
        proof = (
            "stock diffusers draws the same picture in a fresh process, bit for bit"
            if self.fresh_process
            else "reloaded and compared in this process"
        )
        return ", ".join([*(name for name, wanted in more.items() if wanted), proof])


def export_student(
    teacher: Teacher,
    student: UNet2DConditionModel,
    folder: Path,
    *,
    plan: Plan | None = None,
    settings: ExportSettings | None = None,
    about: About | None = None,
    guidance: float | None = None,
    sparsity: SparsityPlan | None = None,
) -> None:
    """Write the student with the teacher's other parts, prove it, and only then give the folder its
    name.

    Args:
        teacher: whose other parts it shares.
        student: the U-Net.
        folder: to write, or to replace.
        plan: what it keeps of its teacher; None: its config says all of it.
        settings: what else is written, and how it is proven; None: as `ExportSettings()`.
        about: for `bksdm.json`; None writes none.
        guidance: classifier-free guidance scale that suits it, for `folder_guidance`; None says
            nothing.
        sparsity: what is zero in it, for `folder_sparsity`; None says nothing.

    Raises:
        InputError: the folder holds what we did not write, or the student has no such form.
        RuntimeError: what was written differs, in weights, config or output.
    """
    settings, folder = settings or ExportSettings(), folder.resolve()
    refuse_others(folder, mark=ABOUT, student=True)
    narrow = None if plan is None else settings.narrow(plan)
    if settings.single_file:
        _refuse_uneven(student)
    unet = _as_written(teacher, student, plan, settings)
    pipeline = assemble(teacher, unet)
    with scratch_folder(folder, "tmp") as temporary, scratch_folder(folder, "proof") as scratch:
        if narrow is not None:
            write_pipeline(pipeline, temporary, narrow)
        else:
            _write(pipeline, temporary, settings, name=folder.name)
        if guidance is not None:
            write_guidance(temporary, guidance)
        if sparsity is not None:
            write_sparsity(temporary, sparsity)
        if about is not None:
            write_about(temporary, replace(about, export=asdict(settings)))
        open_all_to_others(temporary)
        compare(unet, load_pipeline(temporary).unet)
        if settings.identity_mid:
            same_answers(student, unet, "with the identity mid block the U-Net answers otherwise")
        if settings.fresh_process and narrow is None:
            prove(list(_claims(pipeline, temporary, settings, name=folder.name)), scratch)
        replace_folder(folder, temporary)


def _as_written(
    teacher: Teacher, student: UNet2DConditionModel, plan: Plan | None, settings: ExportSettings
) -> UNet2DConditionModel:
    """The U-Net in the form that is wanted.

    Raises:
        InputError: the student has no such form.
        RuntimeError: it answers otherwise.
    """
    if settings.masked and isinstance(plan, WidthPlan):
        whole = copy.deepcopy(teacher.unet).to(student.device)
        fill_masked(whole, student, plan)
        same_answers(student, whole, "the masked U-Net answers otherwise", error=_ROUNDING)
        student = whole.train(student.training)
    return with_identity_mid(student) if settings.identity_mid else student


def _refuse_uneven(student: UNet2DConditionModel) -> None:
    if not isinstance(student.config.layers_per_block, int):
        raise InputError(
            f"export.single_file=true: the student has {student.config.layers_per_block} layers a"
            " stage, and stock diffusers reads single files only where all stages have as many;"
            " leave it out"
        )


def _write(
    pipeline: StableDiffusionPipeline, folder: Path, settings: ExportSettings, *, name: str
) -> None:
    for tensor in pipeline.unet.parameters():
        tensor.data = tensor.data.contiguous()  # some readers refuse channels_last tensors
    if settings.fp16:  # first: the configs that stay are those of fp32
        _halved(pipeline).save_pretrained(folder, variant=FP16)
    pipeline.save_pretrained(folder)
    if settings.single_file:
        write_original(pipeline, _single(folder, name))
    if settings.single_file and settings.fp16:
        write_original(pipeline, _single(folder, name, FP16), dtype=torch.float16)


def _single(folder: Path, name: str, variant: str = "") -> Path:
    return folder / f"{name}{f'.{variant}' * bool(variant)}.safetensors"


def _halved(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A copy with all networks in half precision.

    Raises:
        InputError: a weight is beyond its range.
    """
    networks = {name: copy.deepcopy(getattr(pipeline, name)).half() for name in _NETWORKS}
    for name, network in networks.items():
        for tensor_name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(
                    f"export.fp16=true: {name} {tensor_name} has values beyond 65,504, the range of"
                    " half precision; leave it out"
                )
    others = {k: v for k, v in pipeline.components.items() if k not in networks}
    return StableDiffusionPipeline(**networks, **others, requires_safety_checker=False)


def _claims(
    pipeline: StableDiffusionPipeline, folder: Path, settings: ExportSettings, *, name: str
) -> Iterator[Claim]:
    config = dict(pipeline.unet.config)
    drawn = picture(pipeline)
    yield Claim(path=folder, expected=drawn, config=config)
    if settings.single_file:
        yield Claim(path=_single(folder, name), expected=drawn, config=config, folder=folder)
    if settings.fp16:
        rounded = _halved(pipeline)
        for network in _NETWORKS:
            getattr(rounded, network).float()
        drawn = picture(rounded)
        yield Claim(path=folder, expected=drawn, config=config, variant=FP16)
        if settings.single_file:
            half = _single(folder, name, FP16)
            yield Claim(path=half, expected=drawn, config=config, folder=folder)
