"""What somebody does who has stock diffusers and nothing of ours: load an export, draw a picture.

`proof` runs this file in a process of its own, where bksdm cannot be imported, and compares. So
nothing here may import bksdm. Jobs come as JSON on stdin, the U-Nets' configs go to stdout, and the
pictures into files.
"""

import json
import sys
from typing import Any, Final

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

PROMPT: Final = "a big red circle on a white background"
STEPS: Final = 2
SEED: Final = 0
GUIDANCE: Final = 2.0  # above 1, so that both answers of the U-Net count
SIDE: Final = 256  # pixels at most: a larger picture takes longer and proves no more


def picture(pipeline: StableDiffusionPipeline) -> NDArray[np.float32]:
    """One picture (1, H, W, 3), unrounded, in [0, 1]."""
    side = min(SIDE, pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
    trained = []
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        for parameter in part.parameters():
            if (
                parameter.requires_grad
            ):  # those round otherwise, too, on their way through CPU kernels
                trained.append(parameter.requires_grad_(requires_grad=False))
            # Weights mapped from a file may lie unaligned, where CPU kernels round otherwise; and
            # channels_last ones take other kernels.
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        part.eval()
    pipeline.set_progress_bar_config(disable=True)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # a training may have chosen less
    try:
        drawn = pipeline(
            PROMPT,
            height=side,
            width=side,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(SEED),
            output_type="np",
        )
    finally:
        torch.set_float32_matmul_precision(precision)
        for parameter in trained:
            parameter.requires_grad_(requires_grad=True)
    images: NDArray[np.float32] = drawn.images
    return images


def load(job: dict[str, Any]) -> StableDiffusionPipeline:
    """The pipeline of a job, in fp32, by stock diffusers alone."""
    common = {"torch_dtype": torch.float32, "safety_checker": None}
    if job["kind"] == "single file":
        return StableDiffusionPipeline.from_single_file(
            job["path"], config=job["config"], local_files_only=True, **common
        )
    return StableDiffusionPipeline.from_pretrained(
        job["path"],
        variant=job["variant"],
        use_safetensors=True,
        requires_safety_checker=False,
        **common,
    )


def main() -> None:
    """Do the jobs of stdin."""
    sys.modules["bksdm"] = None  # type: ignore[assignment]  # an import of it fails from here on
    given = json.load(sys.stdin)
    torch.set_num_threads(given["threads"])
    configs = []
    for job in given["jobs"]:
        pipeline = load(job)
        np.save(job["out"], picture(pipeline))
        configs.append({k: v for k, v in pipeline.unet.config.items() if not k.startswith("_")})
    sys.stdout.write(json.dumps(configs) + "\n")


if __name__ == "__main__":
    main()
