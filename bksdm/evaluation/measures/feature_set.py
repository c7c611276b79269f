"""Statistics of many pictures' features: mean, covariance and, if asked for, the vectors.

They are accumulated in one pass in float64, and summed over processes by `torchmetrics`. Its own
FID, KID and Inception Score are not used for this: FID takes square roots of the eigenvalues of a
product that is not symmetric (test_frechet.py), and KID and Inception Score depend on the global
seed and on the order of the pictures, and fail when processes saw different numbers of batches.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torchmetrics import Metric

from bksdm.evaluation.measures.features import Extractor

# N pictures, D features
_KEY: Final = 64  # bytes of an id that order the vectors


@dataclass(frozen=True)
class FeatureSet:
    """The features of n pictures, on the CPU.

    Attributes:
        n: number of pictures.
        mean: float64 (D,).
        covariance: float64 (D, D), unbiased; NaN for n below 2.
        rows: float32 (n, D) in the order of the pictures' ids; None if not kept.
    """

    n: int
    mean: Tensor
    covariance: Tensor
    rows: Tensor | None = None


class FeatureSum(Metric):
    """Accumulates a `FeatureSet` over batches and processes."""

    full_state_update = False
    total: Tensor
    products: Tensor
    count: Tensor
    rows: Any
    keys: Any

    def __init__(self, dim: int, *, rows: bool, alone: bool = False) -> None:
        """Of vectors of length `dim`; `alone` if other processes do not take part."""
        super().__init__(sync_on_compute=not alone)
        self.keep = rows
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), "sum")
        self.add_state("products", torch.zeros(dim, dim, dtype=torch.float64), "sum")
        self.add_state("count", torch.tensor(0), "sum")
        self.add_state("rows", [], "cat")
        self.add_state("keys", [], "cat")
        # So that a process without a picture has tensors of the right shapes to send.
        self.update(torch.zeros(0, dim), [])

    def update(self, features: Tensor, ids: Sequence[str]) -> None:
        """Take in features (N, D) of the pictures with these N ids."""
        exact = features.to(self.total)
        self.total += exact.sum(0)
        self.products += exact.T @ exact
        self.count += len(exact)
        if self.keep:
            self.rows.append(features.to(self.total.device, torch.float32))
            self.keys.append(_keys(ids).to(self.total.device))

    def compute(self) -> tuple[Tensor, ...]:
        """Count, sum, sum of products, and vectors in the order of their ids."""
        sums = (self.count, self.total, self.products)
        if not self.keep:
            return sums
        rows, keys = (
            torch.cat(list(state)) if isinstance(state, list) else state
            for state in (self.rows, self.keys)
        )
        order = sorted(range(len(keys)), key=[bytes(key) for key in keys.cpu().numpy()].__getitem__)
        return *sums, rows[order]

    def feature_set(self) -> FeatureSet:
        """Of the pictures of all processes; all call it together, unless it is `alone`."""
        self.to("cpu")  # where processes add up (gloo), also when networks are on GPUs
        count, total, products, *rows = self.compute()
        mean = total / count
        return FeatureSet(
            n=int(count),
            mean=mean,
            covariance=(products - count * torch.outer(mean, mean)) / (count - 1),
            rows=rows[0] if rows else None,
        )


def accumulator(dim: int, *, rows: bool, device: torch.device, alone: bool = False) -> FeatureSum:
    """A `FeatureSum` that adds up where the features are; MPS has no float64."""
    made = FeatureSum(dim, rows=rows, alone=alone)
    return made.to(torch.device("cpu") if device.type == "mps" else device)


def feature_sets(
    batches: Iterable[Tensor],
    extractor: Extractor,
    *,
    layers: Mapping[str, bool],
    device: torch.device,
) -> dict[str, FeatureSet]:
    """Features of reference pictures by layer, in one pass by this process alone.

    Args:
        batches: uint8 pixels (N, 3, H, W).
        extractor: the network.
        layers: for each wanted layer, whether its vectors are kept.
        device: where sums are kept.
    """
    sums = {
        layer: accumulator(extractor.dims[layer], rows=rows, device=device, alone=True)
        for layer, rows in layers.items()
    }
    seen = 0
    for pixels in batches:
        found = extractor(pixels)
        ids = [f"{seen + i:012d}" for i in range(len(pixels))]
        seen += len(pixels)
        for layer, total in sums.items():
            total.update(found[layer], ids)
    return {layer: total.feature_set() for layer, total in sums.items()}


def _keys(ids: Sequence[str]) -> Tensor:
    """Ids as bytes (N, 64) whose order is that of the ids; of longer ones the end counts."""
    padded = [name.encode()[-_KEY:].ljust(_KEY, b"\0") for name in ids]
    return torch.tensor([list(key) for key in padded], dtype=torch.uint8).view(-1, _KEY)
