"""bksdm generate."""

from pathlib import Path

from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from bksdm.cli.models import named_pipeline
from bksdm.errors import InputError
from bksdm.evaluation.generate import Sampling, generate, write_png
from bksdm.evaluation.grid import grid
from bksdm.evaluation.prompts import from_texts
from bksdm.export.pipeline import best_device

# Pictures this small are of the embedded world, whose best guidance scale is 3.
SMALL_WORLD_SIZE = 64


def run(config: DictConfig) -> int:
    """Write one PNG an image, and a grid of all."""
    texts = list(config.prompt) if isinstance(config.prompt, ListConfig) else [str(config.prompt)]
    if config.images_per_prompt < 1:
        raise InputError(f"images_per_prompt={config.images_per_prompt}: expected at least 1")
    pipeline = named_pipeline(config.model).to(best_device())
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    guidance = (
        config.guidance
        if config.guidance is not None
        else (3.0 if size <= SMALL_WORLD_SIZE else 7.5)
    )
    sampling = Sampling(steps=config.steps, guidance=guidance, batch_size=config.batch_size)
    prompts = from_texts(
        [text for text in texts for _ in range(config.images_per_prompt)], seed=config.seed
    )
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = []
    for image in tqdm(
        generate(pipeline, prompts, sampling), total=len(prompts), unit="image", disable=None
    ):
        write_png(image, folder)
        pixels.append(image.pixels)
    columns = {
        f"seed +{i}": pixels[i :: config.images_per_prompt] for i in range(config.images_per_prompt)
    }
    grid(columns, texts).save(folder / "grid.png")
    print(f"{len(pixels)} images and grid.png in {folder}")
    return 0
