"""DINOv2's features, for a Frechet distance: FD-DINOv2.

Stein et al., arXiv 2306.04675: ViT-L/14, the class token after the last norm, pictures squashed to
224 pixels by PIL's bicubic filter and normalised as ImageNet.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import Dinov2Model

from bksdm import expected
from bksdm.evaluation.measures.features import FEATURES, Extractor, Identity
from bksdm.evaluation.measures.inputs import IMAGENET_MEAN, IMAGENET_STD, Fit, Input
from bksdm.evaluation.measures.weights import Place, pretrained

_OFFSET: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Dinov2:
    """The network.

    Attributes:
        weights: a folder in transformers' layout or a Hub id.
        revision: on the Hub.
        size: side of its input in pixels.
    """

    weights: str = "facebook/dinov2-large"
    revision: str | None = None
    size: int = 224

    def __post_init__(self) -> None:
        expected.count("Dinov2.size", self.size, least=1)

    def load(self, device: torch.device) -> Extractor:
        """The network, its position embeddings for this size.

        Raises:
            InputError: not there.
        """
        place = Place(self.weights, self.revision)
        loaded = pretrained(Dinov2Model, place)
        network = loaded.network
        patch = network.config.patch_size
        if network.config.image_size // patch != self.size // patch:
            fit_positions(network, self.size // patch)
        network.to(device)
        prepare = Input(size=self.size, fit=Fit.SQUASH, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return Extractor(
            identity=Identity(
                name="DINOv2, class token",
                weights=loaded.sha256,
                source=place.words,
                input=prepare.words,
            ),
            dims={FEATURES: network.config.hidden_size},
            forward=lambda pixels: {
                FEATURES: network(pixel_values=prepare(pixels).to(device)).pooler_output
            },
        )


def fit_positions(network: Any, side: int) -> None:
    """Interpolate the position embeddings to `side` x `side` patches as DINOv2's own code does.

    It scales by (side + 0.1) / old side, which moves the points of the bicubic interpolation;
    transformers scales by side / old side. The published FD-DINOv2 (dgm-eval, EDM2) run the former.
    """
    positions = network.embeddings.position_embeddings
    own, patches = positions[:, :1], positions[:, 1:]
    old = math.isqrt(patches.shape[1])
    grid = patches.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    scale = (side + _OFFSET) / old
    moved: Tensor = torch.nn.functional.interpolate(
        grid, scale_factor=(scale, scale), mode="bicubic"
    )
    found = torch.cat([own, moved.flatten(2).transpose(1, 2)], 1)
    network.embeddings.position_embeddings = torch.nn.Parameter(found, requires_grad=False)
