"""Which weights a pipeline has."""

import hashlib

from diffusers import StableDiffusionPipeline

from bksdm.models.teacher import weights_hash

PARTS = ("unet", "text_encoder", "vae")


def part_hashes(pipeline: StableDiffusionPipeline) -> dict[str, str]:
    """sha256, shortened, of each network's tensors."""
    return {part: weights_hash(getattr(pipeline, part)) for part in PARTS}


def fingerprint(parts: dict[str, str]) -> str:
    """One for all of them."""
    text = " ".join(f"{part}={parts[part]}" for part in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
