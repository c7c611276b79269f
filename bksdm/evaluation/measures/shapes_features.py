"""Distribution of the embedded world's pictures without a download: its own VAE as the network, and
reference pictures that are drawn.

What the attribute score does not see moves it: noise, blur, JPEG, colours that are a little off.
The reference is drawn of the model's own prompts: of other captions, the mix of backgrounds alone
would outweigh all of these (docs/evaluation.md).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bksdm import expected
from bksdm.checksum import sha256_of
from bksdm.data.shapes import IMAGE_SIZE, draw, parse
from bksdm.errors import InputError
from bksdm.evaluation.keeping import Keeping, read_picture
from bksdm.evaluation.measures.features import FEATURES, Extractor, Identity
from bksdm.evaluation.prompts import PromptSource
from bksdm.models.features import tap
from bksdm.models.source import embedded_folder

# The encoder's stages at full and at half resolution, where edges and textures are.
STAGES: Final = ("encoder.down_blocks.0", "encoder.down_blocks.1")
_BATCH: Final = 128


@dataclass(frozen=True, kw_only=True)
class ShapesVae:
    """Mean and standard deviation over a picture of each channel of the encoder's first stages and
    of the latent: 72 numbers.
    """

    def load(self, device: torch.device) -> Extractor:
        """The embedded VAE on its device."""
        folder = embedded_folder("shapes") / "vae"
        vae = AutoencoderKL.from_pretrained(folder).to(device).eval()
        widths = [*vae.config.block_out_channels[: len(STAGES)], vae.config.latent_channels]

        def forward(pixels: Tensor) -> Mapping[str, Tensor]:
            if pixels.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
                side = f"{pixels.shape[3]}x{pixels.shape[2]}"
                raise InputError(
                    f"pictures of {side}; ShapesVae takes the {IMAGE_SIZE}x{IMAGE_SIZE} ones of the"
                    " embedded world: choose another protocol="
                )
            with tap(vae, STAGES) as seen:
                latents = vae.encode(pixels.to(device).float() / 127.5 - 1).latent_dist.mean
            maps = [*(seen[name] for name in STAGES), latents]
            moments = [torch.cat([each.mean((2, 3)), each.std((2, 3))], dim=1) for each in maps]
            return {FEATURES: torch.cat(moments, dim=1)}

        identity = Identity(
            name="VAE of the embedded world",
            weights=sha256_of(folder / "diffusion_pytorch_model.safetensors"),
            source="the package",
            input="as it is",
        )
        return Extractor(identity=identity, dims={FEATURES: 2 * sum(widths)}, forward=forward)


@dataclass(frozen=True, kw_only=True)
class DrawnPrompts:
    """What the world draws for each prompt, with other positions.

    Attributes:
        prompts: of the protocol.
        draws: pictures of each.
        seed: of the positions.
    """

    prompts: PromptSource
    draws: int = 4
    seed: int = 9_000_000

    def __post_init__(self) -> None:
        expected.count("draws", self.draws, least=1)

    def batches(self, keeping: Keeping) -> Iterator[Tensor]:
        """uint8 pixels (N, 3, 64, 64), kept as the model's are."""
        scenes = [parse(prompt.text) for prompt in self.prompts.read()] * self.draws
        for start in range(0, len(scenes), _BATCH):
            numbered = enumerate(scenes[start : start + _BATCH], start)
            images = (draw(scene, np.random.default_rng((self.seed, i))) for i, scene in numbered)
            yield torch.stack([read_picture(keeping.real(image)) for image in images])
