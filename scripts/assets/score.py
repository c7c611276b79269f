"""Score the packed teacher and write its card: attributes, and what each part is worth.

The worth of a part is the denoising loss without it: the U-Net straight after the part's removal
(which makes a removed pair the identity), without any training.
"""

from pathlib import Path

from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.report import table
from bksdm.evaluation.shapes import ShapesProtocol, Share, denoising_loss, evaluate_shapes
from bksdm.export.pipeline import load_pipeline
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
PROTOCOL = ShapesProtocol(
    prompts=512,
    held_out=512,
    seed=1_000_000,
    sampling=Sampling(steps=25, guidance=3.0, batch_size=64),
    loss_samples=1024,
)


def write_card(folder: Path) -> None:
    """Measure, print, and write README.md into the folder."""
    pipeline = load_pipeline(folder)
    with tqdm(total=PROTOCOL.prompts + PROTOCOL.held_out, unit="image", disable=None) as bar:
        result, _ = evaluate_shapes(pipeline, PROTOCOL, name="teacher", advance=bar.update)
    scores = table(
        [_row(name, share) for name, share in result.accuracy.items()],
        header=["attribute", "right, %", "95 % interval", "prompts"],
    )
    card = CARD.format(
        scores=_indented(scores),
        parts=_indented(_parts(pipeline)),
        loss=result.denoising_loss,
        size=sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6,
    )
    (folder / "README.md").write_text(card)
    print(card)


def _row(name: str, share: Share) -> list[str]:
    interval = f"{100 * share.low:.1f} - {100 * share.high:.1f}"
    return [name, f"{100 * share.value:.1f}", interval, str(share.n)]


def _parts(pipeline: StableDiffusionPipeline) -> str:
    teacher, rows = pipeline.unet, []
    for name, plan in PARTS.items():
        pipeline.unet = remove_blocks(teacher, plan=plan)
        rows.append([name, f"{denoising_loss(pipeline, count=PROTOCOL.loss_samples):.4f}"])
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
