"""What a feature network is: pictures in, vectors out, and an identity that a reference set must
share. Knows nothing of distances.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

FEATURES: Final = "features"  # the layer that distances between sets are taken on


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What features depend on besides the picture.

    Attributes:
        name: of the network, such as "Inception v3 (FID)".
        weights: sha256 of its weights.
        source: where the weights came from: a path, a URL, a Hub id and revision.
        input: how a picture becomes the network's input: resize, crop, normalisation.
    """

    name: str
    weights: str
    source: str
    input: str

    @property
    def key(self) -> dict[str, str]:
        """What must agree between two sets; where the weights lay does not matter."""
        return {"network": self.name, "weights": self.weights, "input": self.input}


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A loaded network.

    Attributes:
        identity: what its features depend on.
        dims: length of the vectors of each layer; `FEATURES`, and others where a metric needs them.
        forward: uint8 pixels (N, 3, H, W), on any device, to float vectors (N, D) by layer.
    """

    identity: Identity
    dims: Mapping[str, int]
    forward: Callable[[Tensor], Mapping[str, Tensor]]

    def __call__(self, pixels: Tensor) -> Mapping[str, Tensor]:
        """The vectors of N pictures by layer, without gradients."""
        with measuring():
            return self.forward(pixels)


@contextmanager
def measuring() -> Iterator[None]:
    """How networks that measure are run: without gradients, and without TF32's rounding of
    convolutions, which torch allows by default.
    """
    cudnn = torch.backends.cudnn
    exact = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
    with torch.inference_mode(), exact:
        yield


class FeatureNetwork(Protocol):
    """Settings of a network: a frozen dataclass that a protocol's config names by `_target_`."""

    def __hash__(self) -> int:
        """What is made of them is kept by their values."""

    def load(self, device: torch.device) -> Extractor:
        """The network, on its device.

        Raises:
            InputError: its package or weights are not there (named, with how to get them).
        """
