"""A tiny real network, and pictures for it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measure import Pictures, Subject
from bksdm.evaluation.measures.features import FEATURES, Extractor, Identity
from bksdm.evaluation.prompts import Prompt

CPU = torch.device("cpu")
DIM = 12


@dataclass(frozen=True, kw_only=True)
class Quarters:
    """The mean of each quarter of a picture in each colour, and differences of these as logits."""

    name: str = "quarters"
    weights: str = "none"
    input: str = "as it is"

    def load(self, device: torch.device) -> Extractor:
        def forward(pixels: Tensor) -> Mapping[str, Tensor]:
            scaled = pixels.to(device).double() / 255
            pooled = torch.nn.functional.adaptive_avg_pool2d(scaled, 2).flatten(1)
            return {FEATURES: pooled, "logits": 8 * pooled.diff(dim=1)}

        return Extractor(
            identity=Identity(
                name=self.name, weights=self.weights, source="here", input=self.input
            ),
            dims={FEATURES: DIM, "logits": DIM - 1},
            forward=forward,
        )


@dataclass(frozen=True)
class Noise:
    """Reference pictures."""

    count: int
    seed: int

    def batches(self, keeping: Keeping) -> Iterator[Tensor]:
        del keeping
        yield from noise(self.count, seed=self.seed).split(7)


def noise(count: int, *, seed: int) -> Tensor:
    return torch.randint(
        256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def pictures(pixels: Tensor, *, start: int = 0, baseline: Tensor | None = None) -> Pictures:
    prompts = tuple(Prompt(f"{start + i:06d}", "", i) for i in range(len(pixels)))
    beside = None if baseline is None else Pictures(prompts, baseline)
    return Pictures(prompts, pixels, baseline=beside)


def subject(keeping: Keeping | None = None) -> Subject:
    """These measures do not look at the pipeline."""
    pipeline: Any = None
    return Subject(pipeline, CPU, keeping or Keeping())
