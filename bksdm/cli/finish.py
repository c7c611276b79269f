"""What follows a training: the exported student, and its evaluation beside its teacher."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig

from bksdm.cli.config import built, plain
from bksdm.cli.evaluating import Plan, evaluate_models
from bksdm.cli.models import NamedModel, curves, plan_values
from bksdm.cli.student import ancestor_of, beginning
from bksdm.evaluation.cost.latency import LatencySettings
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.results import write_results
from bksdm.export.folder import ExportSettings, export_student
from bksdm.export.pipeline import assemble
from bksdm.export.sparse import recount
from bksdm.models.teacher import Teacher
from bksdm.processes import Process
from bksdm.surgery import plans
from bksdm.training.checkpoint import about_student, load_student, read_checkpoint
from bksdm.training.folder import RunFolder
from bksdm.training.identity import check_init
from bksdm.training.peers import Peers
from bksdm.training.telemetry import memory_gib


@dataclass(frozen=True)
class Rest:
    """What is left to do when a run is trained."""

    teacher: Teacher
    plan: plans.Plan
    checkpoint: Path


def finish(config: DictConfig, folder: RunFolder, rest: Rest, *, gpu: bool) -> None:
    """Export the averaged student, and evaluate it."""
    teacher = rest.teacher
    teacher.to("cpu")  # where the exported folder is compared
    student = load_student(rest.checkpoint)
    wanted = config.protocol or ancestor_of(config.method.init)
    begun = beginning(config, teacher, rest.plan) if wanted else None
    if begun is not None:  # the folder may hold another model by now
        saved = read_checkpoint(rest.checkpoint)["bksdm"]
        check_init(saved, begun.identity, checkpoint=rest.checkpoint)
    around = teacher if begun is None else teacher.with_text(begun.text_encoder)
    sparsity = None if begun is None else begun.sparsity
    settings = built(config.export, ExportSettings)
    about = about_student(rest.checkpoint, weights="ema", teacher_unet=teacher.unet.config)
    guidance = config.samples.sampling.guidance
    networks = {"unet": student, "text_encoder": around.text_encoder}
    export_student(
        around,
        student,
        folder.student,
        plan=rest.plan,
        settings=settings,
        about=about,
        guidance=guidance,
        sparsity=sparsity and recount(sparsity, networks),
    )
    told = settings.told(rest.plan)
    print(f"student: {folder.student} (a diffusers folder, averaged weights; {told})")
    if config.protocol and begun is not None:
        students = {"student before": begun.unet, "student after": student}
        _evaluate(config, folder, rest, around, students)
    on_gpu = f", on the GPU {memory_gib(torch.device('cuda')):.2f} GiB" if gpu else ""
    print(f"peak memory: {memory_gib(torch.device('cpu')):.2f} GiB{on_gpu}")
    grids = sorted(folder.samples.glob("step_*.png"))
    if grids:
        print(f"picture: {grids[-1]}")


def _model(name: str, teacher: Teacher, unet: UNet2DConditionModel) -> NamedModel:
    return NamedModel(name=name, load=partial(assemble, teacher, unet), place="memory")


def _evaluate(
    config: DictConfig,
    folder: RunFolder,
    rest: Rest,
    around: Teacher,
    students: Mapping[str, UNet2DConditionModel],
) -> None:
    """Beside the teacher, whose other parts they share, but for a text encoder of their own."""
    teacher, plan = rest.teacher, plan_values(rest.plan, rest.teacher.unet.config)
    models = [_model("teacher", teacher, teacher.unet)]
    for name, unet in students.items():
        unet.eval().requires_grad_(requires_grad=False)
        models.append(replace(_model(name, around, unet), plan=plan))
    models[-1] = replace(models[-1], curves=curves(folder.metrics))
    found = evaluate_models(
        models,
        Plan(
            protocol=built(config.protocol, Protocol),
            settings=plain(config)["protocol"],
            root=folder.evaluation,
            compared=True,
            latency=LatencySettings(image_repeats=0),  # `bksdm evaluate` times whole images
        ),
        Peers(Process()),
    )
    write_results([one.beside(folder.results) for one in found], folder.results)
    print(f"results: {folder.results}")
