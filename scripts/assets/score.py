"""Score the packed teacher and write its card: attributes, and what each part is worth.

The worth of a part is the denoising loss without it: the U-Net straight after the part's removal
(which makes a removed pair the identity), without any training.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from bksdm.evaluation.evaluate import evaluate, ready
from bksdm.evaluation.gallery import IMAGES, Gallery
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measures.attributes import ALL, AttributeAccuracy
from bksdm.evaluation.measures.denoising import shapes_denoising_errors
from bksdm.evaluation.prompts import ShapesPrompts
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.report import table
from bksdm.evaluation.score import Score
from bksdm.export.pipeline import load_pipeline
from bksdm.processes import Process
from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan

WHOLE = ((0, 1),) * 4
PARTS = {
    "everything": BlockPlan(down=WHOLE, mid=True),
    "no mid": BlockPlan(down=WHOLE, mid=False),
    "no mid, no innermost stage": BlockPlan(down=WHOLE[:3], mid=False),
    **{
        f"no second pair in stage {i}": BlockPlan(
            down=(*WHOLE[:i], (0,), *WHOLE[i + 1 :]), mid=True
        )
        for i in range(4)
    },
    "Base, straight after removal": BASE,
    "Small, straight after removal": SMALL,
    "Tiny, straight after removal": TINY,
}
PROTOCOL = Protocol(
    name="card",
    prompts=ShapesPrompts(count=512, held_out=512, seed=1_000_000),
    sampling=Sampling(steps=25, guidance=3.0, batch_size=64),
    keeping=Keeping(),
    measures={"attributes": AttributeAccuracy()},
    decide=ALL,
)
LOSS_PICTURES = 1024


def scored(pipeline: StableDiffusionPipeline, protocol: Protocol = PROTOCOL) -> list[Score]:
    """What the attributes of a pipeline's pictures score."""
    prompts = protocol.prompts.read()
    with TemporaryDirectory() as place, tqdm(total=len(prompts), disable=None) as bar:
        gallery = Gallery(Path(place), protocol.keeping, latents=False)
        (gallery.folder / IMAGES).mkdir()
        return evaluate(
            ready(pipeline, protocol),
            prompts,
            gallery,
            baseline=None,
            process=Process(),
            advance=bar.update,
        )


def write_card(folder: Path) -> None:
    """Measure, print, and write README.md into the folder."""
    pipeline = load_pipeline(folder)
    scores = table(
        [_row(score) for score in scored(pipeline)],
        header=["attribute", "right, %", "95 % interval", "prompts"],
    )
    card = CARD.format(
        scores=_indented(scores),
        parts=_indented(_parts(pipeline)),
        loss=_loss(pipeline),
        size=sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6,
    )
    (folder / "README.md").write_text(card)
    print(card)


def _row(score: Score) -> list[str]:
    interval = f"{100 * score.low:.1f} - {100 * score.high:.1f}"
    return [score.name, f"{100 * score.value:.1f}", interval, str(score.n)]


def _loss(pipeline: StableDiffusionPipeline) -> float:
    _, errors = shapes_denoising_errors(pipeline, LOSS_PICTURES)
    return float(errors.mean())


def _parts(pipeline: StableDiffusionPipeline) -> str:
    teacher, rows = pipeline.unet, []
    for name, plan in PARTS.items():
        pipeline.unet = remove_blocks(teacher, plan=plan)
        rows.append([name, f"{_loss(pipeline):.4f}"])
    pipeline.unet = teacher
    return table(rows, header=["U-Net", "denoising loss"])


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, synthetic, tiny]
---
# The embedded teacher

A Stable-Diffusion-shaped pipeline for 64x64 pictures of the shapes world
(`bksdm/data/shapes.py`): one or two coloured shapes in a relation on a plain background. Stock
diffusers and transformers classes, fp16 safetensors, {size:.1f} MB with the scoring network
(`outline.safetensors`). Trained on pictures that the code draws, by `make assets`; no other
data, no other weights. Apache-2.0.

Use: tests, teaching, regression of methods. Not for anything outside this world: it says nothing
of how a method does on photographs.

## Scores

`make assets` prints and writes this. DPM-Solver, 25 steps, guidance 3, one seed a prompt;
"held out" are prompts with a (shape, colour) pair that no training picture has.

{scores}

Denoising loss (v, 1,024 fresh pictures, fixed noise): {loss:.4f}.

## What each part is worth

Denoising loss straight after removal, without training:

{parts}
"""
