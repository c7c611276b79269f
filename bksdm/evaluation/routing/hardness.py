"""Do harder prompts get larger experts? How hard a prompt is, is the teacher's denoising loss."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata
from torch import Tensor

from bksdm.data.shapes import parse
from bksdm.diffusion import Diffusion
from bksdm.errors import InputError
from bksdm.evaluation.comparison import DRAWS, Interval

TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)  # of all training timesteps
_TOP: Final = 10
_FEWEST: Final = 20  # prompts: an interval of fewer would be too narrow
_SEED: Final = 0

Asked = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class RatedPrompt:
    """A prompt, how hard it is, and what it gets.

    Attributes:
        prompt: it.
        difficulty: the teacher's denoising loss over the mean of all rated prompts; 1 is average.
        expert: the code that takes it.
        macs_share: of that expert, of the teacher's.
    """

    prompt: str
    difficulty: float
    expert: int
    macs_share: float


@dataclass(frozen=True, kw_only=True)
class Hardness:
    """Rated prompts.

    Attributes:
        prompts: how many different ones were rated.
        timesteps: at which the teacher was asked.
        losses: its mean loss at each.
        hardest: prompts, the hardest first.
        easiest: prompts, the easiest first.
        correlation: Spearman's, of difficulty with the expert's MACs, with a percentile bootstrap
            over prompts; None where there are too few, or either is the same for all.
    """

    prompts: int
    timesteps: tuple[int, ...]
    losses: tuple[float, ...]
    hardest: tuple[RatedPrompt, ...]
    easiest: tuple[RatedPrompt, ...]
    correlation: Interval | None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of prompt of the embedded world.

    Attributes:
        kind: in words.
        prompts: of it among the training samples.
        macs_share: mean of their experts', of the teacher's.
        difficulty: mean over its rated prompts; None if there are none.
    """

    kind: str
    prompts: int
    macs_share: float
    difficulty: float | None


def timesteps_of(diffusion: Diffusion) -> tuple[int, ...]:
    """Those at which the teacher is asked."""
    return tuple(int(time * diffusion.steps) for time in TIMES)


@torch.no_grad()
def denoising_losses(ask: Asked, diffusion: Diffusion, latents: Tensor, text: Tensor) -> Tensor:
    """Mean squared errors (B, T), float64, on the CPU, at each of the T timesteps. At one timestep
    all prompts have the same noise, so that only they differ.

    Args:
        ask: the U-Net: noised latents, timesteps and text states to its answer.
        diffusion: its schedule.
        latents: clean and scaled, (B, C, h, w).
        text: their captions' text states, (B, T, D).
    """
    found = []
    for timestep in timesteps_of(diffusion):
        rng = torch.Generator().manual_seed(timestep)
        noise = torch.randn(latents.shape[1:], generator=rng).to(latents).expand_as(latents)
        at = torch.full((len(latents),), timestep, device=latents.device)
        guess = ask(diffusion.noised(latents, noise, at), at, text)
        error = guess.float() - diffusion.target(latents, noise, at)
        found.append(error.square().flatten(1).mean(1).double().cpu())
    return torch.stack(found, 1)


def difficulties(captions: Sequence[str], losses: Tensor) -> dict[str, float]:
    """How hard each different caption is: mean over its samples and the timesteps, each timestep's
    losses (B, T) over their mean; 1 is average.
    """
    each = (losses / losses.mean(0)).mean(1).tolist()
    by_caption: dict[str, list[float]] = defaultdict(list)
    for caption, value in zip(captions, each, strict=True):
        by_caption[caption].append(value)
    return {caption: sum(values) / len(values) for caption, values in by_caption.items()}


def hardness(
    rated: Sequence[RatedPrompt], *, timesteps: Sequence[int], losses: Sequence[float]
) -> Hardness:
    """The hardest, the easiest, and whether the harder ones get more."""
    order = sorted(rated, key=lambda each: (-each.difficulty, each.prompt))
    return Hardness(
        prompts=len(order),
        timesteps=tuple(timesteps),
        losses=tuple(losses),
        hardest=tuple(order[:_TOP]),
        easiest=tuple(order[: -_TOP - 1 : -1]),
        correlation=spearman(
            [each.difficulty for each in order], [each.macs_share for each in order]
        ),
    )


def spearman(one: Sequence[float], other: Sequence[float]) -> Interval | None:
    """Spearman's rank correlation with a 95 % percentile bootstrap over pairs; None where there are
    fewer than twenty, or one side is the same for all.
    """
    pair = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if len(pair[0]) < _FEWEST or any(np.ptp(side) == 0 for side in pair):
        return None
    found = bootstrap(
        pair,
        _rank_correlation,
        n_resamples=DRAWS,
        batch=max(1, 1_000_000 // len(pair[0])),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Interval(float(_rank_correlation(*pair)), float(found.low), float(found.high))


def _rank_correlation(
    one: NDArray[np.float64], other: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    ranks = [rankdata(side, axis=axis) for side in (one, other)]
    first, second = (side - side.mean(axis, keepdims=True) for side in ranks)
    length = np.sqrt((first**2).sum(axis) * (second**2).sum(axis))
    # A resample in which one side is the same for all says nothing.
    correlation: NDArray[np.float64] = (first * second).sum(axis) / np.where(length, length, 1)
    return correlation


def kinds(
    prompts: Sequence[tuple[str, int, float]], difficulty: dict[str, float]
) -> tuple[Kind, ...]:
    """The kinds of prompt of the embedded world; none for captions of another one.

    Args:
        prompts: text, how often it occurs, and its expert's share of the teacher's MACs.
        difficulty: of rated prompts.
    """
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for text, count, macs in prompts:
        for kind in kinds_of(text):
            found[kind].append((count, macs))
    rated: dict[str, list[float]] = defaultdict(list)
    for text, value in difficulty.items():
        for kind in kinds_of(text):
            rated[kind].append(value)
    result = []
    for kind in sorted(found):
        count = sum(each for each, _ in found[kind])
        mean = sum(each * macs for each, macs in found[kind]) / count
        hard = sum(rated[kind]) / len(rated[kind]) if rated[kind] else None
        result.append(Kind(kind=kind, prompts=count, macs_share=mean, difficulty=hard))
    return tuple(result)


def kinds_of(caption: str) -> tuple[str, ...]:
    """What the grammar of the embedded world says of a caption; nothing if it is not of it."""
    try:
        scene = parse(caption)
    except InputError:
        return ()
    if scene.relation is None:
        return ("one object",)
    return ("two objects", f"two objects, {scene.relation}")
