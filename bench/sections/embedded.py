"""The embedded world's teacher at a larger size, trained in the time that is left, beside the one
that the package carries.
"""

import time
from dataclasses import replace
from typing import Final

from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bench.patience import ImpatientError
from bench.sections.section import Section
from bksdm.evaluation.measures.attributes import ALL
from bksdm.evaluation.measures.denoising import shapes_denoising_errors
from bksdm.evaluation.prompts import ShapesPrompts
from bksdm.export.pipeline import load_pipeline
from bksdm.models.cost import parameter_count
from bksdm.models.source import embedded_folder
from scripts.assets import score, unet

LR: Final = 1.2e-3
LAYOUT: Final = unet.Layout((64, 96, 80, 80), (False, True, True, False))  # the package's
WARM_UP: Final = 20  # steps, after which as many are timed
SCORING: Final = 45  # seconds that both teachers' scores need on a GPU
AT_MOST: Final = 20_000  # steps


def measure(section: Section) -> None:
    """The package's teacher, then the one that is trained here."""
    pipeline = load_pipeline(embedded_folder("shapes")).to(section.setting.device)
    ours = pipeline.unet

    def trained() -> None:
        larger, steps = _train(section, pipeline)
        if section.setting.device.type == "cuda":
            larger.half().save_pretrained(section.file.parent / "teacher" / "unet")
            larger.float()
        _score(section, pipeline, larger, name=f"{steps:,} steps here")

    section.attempt(
        "embedded teacher", lambda: _score(section, pipeline, ours, name="package"), seconds=5
    )
    seconds = 1 if section.setting.teacher_steps else SCORING + 20
    section.attempt("larger teacher", trained, seconds=seconds)


def _train(section: Section, pipeline: StableDiffusionPipeline) -> tuple[UNet2DConditionModel, int]:
    setting = section.setting
    begin = time.perf_counter()
    vae, text = pipeline.vae.cpu(), pipeline.text_encoder.cpu()
    cache = unet.encode(vae, pipeline.tokenizer, text, count=setting.teacher_pictures, seed=6)
    pipeline.to(setting.device)
    section.note(
        f"{setting.teacher_pictures:,} pictures drawn and encoded in"
        f" {time.perf_counter() - begin:.0f} s"
    )

    def fit(steps: int, name: str) -> UNet2DConditionModel:
        return unet.train(
            section.folder, cache, replace(LAYOUT, channels=setting.widths), steps=steps,
            batch=setting.teacher_batch, lr=LR, name=name, device=setting.device,
        )  # fmt: skip

    steps, least = setting.teacher_steps, 500
    if steps is None:
        fit(WARM_UP, "warm-up")
        begin = time.perf_counter()
        fit(WARM_UP, "timed")
        rate = WARM_UP / (time.perf_counter() - begin)
        steps = min(AT_MOST, int((section.left - SCORING) * rate))
        section.note(f"{rate:.1f} steps/s of {setting.teacher_batch} pictures")
        if steps < least:
            raise ImpatientError(f"the {section.left:.0f} s that are left for {least} steps")
    return fit(steps, "larger"), steps


def _score(
    section: Section, pipeline: StableDiffusionPipeline, network: UNet2DConditionModel, *, name: str
) -> None:
    count = section.setting.prompts // 2
    protocol = replace(
        score.PROTOCOL,
        prompts=ShapesPrompts(count=count, held_out=count, seed=1_000_000),
        sampling=replace(score.PROTOCOL.sampling, batch_size=256),
    )
    pipeline.register_modules(unet=network.eval())
    found = {each.name: each for each in score.scored(pipeline, protocol)}
    right = found[ALL]
    _, errors = shapes_denoising_errors(pipeline, count)
    section.row(
        "embedded teacher", teacher=name, parameters=f"{parameter_count(network) / 1e6:.2f} M",
        right=f"{100 * right.value:.1f} [{100 * right.low:.1f}, {100 * right.high:.1f}]",
        denoising_loss=f"{float(errors.mean()):.4f}",
    )  # fmt: skip
