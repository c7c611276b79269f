"""Findings of many shards in a few numbers."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bksdm.data.checking import Findings
from bksdm.data.filesystems import shown

_ENDS: Final = 2  # tokens that mark a caption's ends


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
    tokens = sum((found.tokens for found in findings), Counter[int]())
    sizes = sum((found.sizes for found in findings), Counter[tuple[int, int]]())
    kinds = {found.format for found in findings if not found.broken}
    latents = any(kinds)
    return Summary(
        shards=len(findings),
        samples=sum(found.samples for found in findings),
        bad=sum(found.bad_samples for found in findings),
        reasons=_reasons(findings),
        broken={shown(found.location): found.broken for found in findings if found.broken},
        captions=_captions(
            tokens, longest=longest, unknown=sum(found.unknown for found in findings)
        ),
        sizes=_sizes(sizes, resolution=0 if latents else resolution),
        duplicate_keys=_repeated([found.keys for found in findings]),
        duplicate_pictures=_repeated([found.pictures for found in findings]),
        kind=" and ".join(sorted(_kind(shape) for shape in kinds)) or "nothing",
    )


def _kind(shape: str) -> str:
    if not shape:
        return "pictures"
    meta = json.loads(shape)
    return f"latents of {meta.get('resolution', '?')} pixels, VAE {meta.get('vae', '?')}"


def _reasons(findings: Sequence[Findings]) -> dict[str, dict[str, Any]]:
    counts: Counter[str] = Counter()
    for found in findings:
        counts.update({reason: len(keys) for reason, keys in found.bad.items()})
    result = {}
    for reason, count in counts.most_common():
        worst = max(findings, key=lambda found: len(found.bad.get(reason, [])))
        result[reason] = {
            "samples": count,
            "worst_shard": shown(worst.location),
            "in_it": len(worst.bad[reason]),
            "example": worst.bad[reason][0],
        }
    return result


def _captions(tokens: Counter[int], *, longest: int, unknown: int) -> dict[str, int]:
    if not tokens:
        return {}
    half, most, all_ = _quantiles(tokens, [0.5, 0.95, 1])
    return {
        "median": half,
        "95 %": most,
        "longest": all_,
        "empty": sum(count for length, count in tokens.items() if length <= _ENDS),
        "limit": longest,
        "over the limit": sum(count for length, count in tokens.items() if length > longest),
        "unknown tokens": unknown,
    }


def _sizes(sizes: Counter[tuple[int, int]], *, resolution: int) -> dict[str, Any]:
    if not sizes:
        return {}
    short: Counter[int] = Counter()
    for size, count in sizes.items():
        short[min(size)] += count
    common = sizes.most_common(3)
    return {
        "short side": _quantiles(short, [0, 0.25, 0.5, 0.75, 1]),
        "below the resolution": sum(count for side, count in short.items() if side < resolution),
        "most common": [[f"{width} x {height}", count] for (width, height), count in common],
    }


def _quantiles(counts: Counter[int], shares: Sequence[float]) -> list[int]:
    """The least values that so large a share of all is not above."""
    values = sorted(counts)
    below = np.cumsum([counts[value] for value in values])
    places = np.searchsorted(below, [max(1, math.ceil(share * below[-1])) for share in shares])
    return [values[place] for place in places.tolist()]


def _repeated(hashes: Sequence[npt.NDArray[np.int64]]) -> int:
    values = np.concatenate(hashes)
    return len(values) - len(np.unique(values))
