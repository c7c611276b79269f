"""Generation by teacher and students, one at a time and many at once, and a call of each U-Net."""

from collections.abc import Mapping

import torch
from diffusers import StableDiffusionPipeline

from bench.sections.ladder import STUDENTS
from bench.sections.section import Section
from bksdm.evaluation.cost.latency import LatencySettings, ModelLatency, pipeline_latency
from bksdm.evaluation.cost.timing import Measured
from bksdm.evaluation.generate import Sampling
from bksdm.export.pipeline import assemble
from bksdm.surgery.blocks import remove_blocks


def measure(section: Section) -> None:
    """All models in turn, as their ratios are what counts; calls of U-Nets first."""
    gpu = section.setting.device.type == "cuda"
    pipelines = _pipelines(section)
    for what, images in (("U-Net calls", 0), ("images", 1)):
        section.attempt(
            what,
            lambda images=images: _timed(section, pipelines, images=images),
            seconds=10 if gpu else 1,
        )
    steps, _ = section.setting.sampling
    section.note(
        f"{steps} steps at guidance 7.5, {'float16' if gpu else 'float32'};"
        " in brackets, time beside the teacher's"
    )


def _pipelines(section: Section) -> dict[str, StableDiffusionPipeline]:
    setting, teacher = section.setting, section.setting.teacher
    unets = {"teacher": teacher.unet}
    unets |= {name: remove_blocks(teacher.unet, plan=plan) for name, plan in STUDENTS.items()}
    gpu = setting.device.type == "cuda"
    return {
        name: assemble(teacher, unet).to(setting.device, torch.float16 if gpu else torch.float32)
        for name, unet in unets.items()
    }


def _timed(
    section: Section, pipelines: Mapping[str, StableDiffusionPipeline], *, images: int
) -> None:
    steps, batch = section.setting.sampling
    calls = 1 if images or section.setting.device.type == "cpu" else 10
    report = pipeline_latency(
        pipelines,
        LatencySettings(repeats=calls, image_repeats=images, batch_sizes=(batch,)),
        sampling=Sampling(steps=steps, guidance=7.5, batch_size=batch),
    )
    for model in report.models:
        if images:
            section.row("generate", model=model.model, **_image_cells(model))
        else:
            call = _time(model.unet_calls[-1], 1e3, "ms")
            section.row("U-Net", model=model.model, **{"a call, 2 rows": call})


def _image_cells(model: ModelLatency) -> dict[str, str]:
    one, many = model.images[0], model.images[-1]
    return {
        "an image": _time(one, 1, "s"),
        f"images/s at {many.batch}": "-" if not many.per_second else f"{many.per_second:.3g}",
        "GiB": "-" if many.peak_bytes is None else f"{many.peak_bytes / 2**30:.1f}",
    }


def _time(measured: Measured, scale: float, unit: str) -> str:
    if measured.seconds is None:
        return "out of memory"
    ratio = "" if measured.ratio is None else f" ({measured.ratio.median:.2f})"
    return f"{scale * measured.seconds.median:.3g} {unit}{ratio}"
