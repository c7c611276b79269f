"""Findings of many shards in a few numbers."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bksdm.data.checking import Findings


@dataclass(frozen=True)
class Summary:
    """What was found in all shards of a split."""

    shards: int
    samples: int
    bad: int
    reasons: dict[str, dict[str, Any]]
    broken: dict[str, str]
    captions: dict[str, int]
    sizes: dict[str, Any]
    duplicate_keys: int
    duplicate_pictures: int
    kind: str

    @property
    def bad_fraction(self) -> float:
        """Share of samples that cannot be used."""
        return self.bad / max(self.samples, 1)


def summary(findings: Sequence[Findings], *, longest: int, resolution: int) -> Summary:
    """Findings of many shards in a few numbers.

    Args:
        findings: of each shard.
        longest: tokens that the text encoder takes.
        resolution: below which a picture would be enlarged.
    """
    tokens = np.concatenate([found.tokens for found in findings])
    sizes = np.concatenate([found.sizes for found in findings])
    kinds = {found.format for found in findings if not found.broken}
    latents = any(kinds)
    return Summary(
        shards=len(findings),
        samples=sum(found.samples for found in findings),
        bad=sum(found.bad_samples for found in findings),
        reasons=_reasons(findings),
        broken={found.location: found.broken for found in findings if found.broken},
        captions=_captions(tokens, longest=longest),
        sizes=_sizes(sizes, resolution=0 if latents else resolution),
        duplicate_keys=_repeated([found.keys for found in findings]),
        duplicate_pictures=_repeated([found.pictures for found in findings]),
        kind=" and ".join(sorted(_kind(shape) for shape in kinds)) or "nothing",
    )


def _kind(shape: str) -> str:
    if not shape:
        return "pictures"
    meta = json.loads(shape)
    return f"latents of {meta['resolution']} pixels, VAE {meta['vae']}"


def _reasons(findings: Sequence[Findings]) -> dict[str, dict[str, Any]]:
    counts: Counter[str] = Counter()
    for found in findings:
        counts.update({reason: len(keys) for reason, keys in found.bad.items()})
    result = {}
    for reason, count in counts.most_common():
        worst = max(findings, key=lambda found: len(found.bad.get(reason, [])))
        result[reason] = {
            "samples": count,
            "worst_shard": worst.location,
            "in_it": len(worst.bad[reason]),
            "example": worst.bad[reason][0],
        }
    return result


def _captions(tokens: npt.NDArray[np.int64], *, longest: int) -> dict[str, int]:
    if not len(tokens):
        return {}
    half, most = np.quantile(tokens, [0.5, 0.95], method="higher").tolist()
    return {
        "median": int(half),
        "95 %": int(most),
        "longest": int(tokens.max()),
        "empty": int((tokens <= 2).sum()),
        "limit": longest,
        "over the limit": int((tokens > longest).sum()),
    }


def _sizes(sizes: npt.NDArray[np.int64], *, resolution: int) -> dict[str, Any]:
    if not len(sizes):
        return {}
    short = sizes.min(axis=1)
    quartiles = np.quantile(short, [0, 0.25, 0.5, 0.75, 1], method="nearest").astype(int).tolist()
    common = Counter(map(tuple, sizes.tolist())).most_common(3)
    return {
        "short side": quartiles,
        "below the resolution": int((short < resolution).sum()),
        "most common": [[f"{width} x {height}", count] for (width, height), count in common],
    }


def _repeated(hashes: Sequence[npt.NDArray[np.int64]]) -> int:
    values = np.concatenate(hashes)
    return len(values) - len(np.unique(values))
