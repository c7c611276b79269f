"""Which weights and settings a pipeline has."""

import hashlib
import json

from diffusers import StableDiffusionPipeline

from bksdm.export.mixture_pipeline import MixturePipeline
from bksdm.models.teacher import weights_hash

PARTS = ("unet", "text_encoder", "vae")
# What they do besides: prediction type, noise schedule, scaling of latents, size.
CONFIGURED = ("unet", "vae", "scheduler")


def part_hashes(pipeline: StableDiffusionPipeline) -> dict[str, str]:
    """sha256, shortened, of each network's tensors, and of all their settings."""
    hashes = {
        part: weights_hash(getattr(pipeline, part))
        for part in PARTS
        if part != "unet" or not isinstance(pipeline, MixturePipeline)
    }
    if isinstance(pipeline, MixturePipeline):  # whose experts are not all in memory
        hashes["unet"] = pipeline.weights
    return hashes | {"settings": _settings_hash(pipeline)}


def _settings_hash(pipeline: StableDiffusionPipeline) -> str:
    settings = [
        # Underscores: versions, and where it was loaded from.
        {name: value for name, value in getattr(pipeline, part).config.items() if name[0] != "_"}
        for part in CONFIGURED
    ]
    text = json.dumps([type(pipeline.scheduler).__name__, *settings], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(parts: dict[str, str]) -> str:
    """One for all of them."""
    text = " ".join(f"{part}={parts[part]}" for part in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
