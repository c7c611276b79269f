"""How near a model's pictures are to the baseline's of the same prompts and seeds.

Needs no weights and no reference set, and reacts before anything else does. Different is not worse:
neither score says which model is better (docs/evaluation.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from bksdm.errors import InputError
from bksdm.evaluation.measure import Pictures, Subject
from bksdm.evaluation.measures.per_prompt import PerPrompt
from bksdm.evaluation.score import Better, Score

LATENT_MSE: Final = "latent MSE to baseline"
SSIM: Final = "SSIM to baseline"
_BORDER: Final = 5  # half of the window


@dataclass(frozen=True, kw_only=True)
class LatentMse:
    """Mean squared difference of the sampler's final latents."""

    needs_latents: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (LATENT_MSE,)

    def begin(self, subject: Subject) -> "_ToBaseline":
        """Nothing to load."""
        del subject
        return _ToBaseline(LATENT_MSE, _latent_mse)


@dataclass(frozen=True, kw_only=True)
class Ssim:
    """Structural similarity of the pictures (Wang et al. 2004: 11x11 Gaussian, sigma 1.5, mean over
    the places where it lies within the picture; planes of RGB, averaged).
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (SSIM,)

    def begin(self, subject: Subject) -> "_ToBaseline":
        """Nothing to load."""
        del subject
        return _ToBaseline(SSIM, _ssim)


class _ToBaseline:
    def __init__(self, name: str, measured: Callable[[Pictures, Pictures], Tensor]) -> None:
        self.name, self.measured = name, measured
        self.values = PerPrompt()

    def update(self, pictures: Pictures) -> None:
        """Nothing is asked of the baseline itself, or without one."""
        theirs = pictures.baseline
        if theirs is None or theirs.pixels is pictures.pixels:
            return
        values = self.measured(pictures, theirs)
        self.values.update([prompt.id for prompt in pictures.prompts], values)

    def scores(self) -> Sequence[Score]:
        """None of the baseline itself."""
        score = self.values.score(self.name, Better.NEITHER)
        return [score] if score.n else []


def _latent_mse(ours: Pictures, theirs: Pictures) -> Tensor:
    if ours.latents is None or theirs.latents is None:
        raise InputError(f"{LATENT_MSE}: expected a protocol with latents: true")
    if ours.latents.shape != theirs.latents.shape:
        raise InputError(
            f"{LATENT_MSE}: latents of {tuple(ours.latents.shape[1:])} beside the baseline's"
            f" {tuple(theirs.latents.shape[1:])}; choose a baseline with the same VAE, or another"
            " protocol"
        )
    return F.mse_loss(ours.latents, theirs.latents, reduction="none").flatten(1).mean(1)


def _ssim(ours: Pictures, theirs: Pictures) -> Tensor:
    if ours.pixels.shape != theirs.pixels.shape:
        raise InputError(
            f"{SSIM}: pictures of {ours.pixels.shape[-1]} pixels beside the baseline's"
            f" {theirs.pixels.shape[-1]}; choose a baseline of the same size, or set"
            " protocol.sampling.size"
        )
    pair = (ours.pixels.float() / 255, theirs.pixels.float() / 255)
    # The mean is ours: whether torchmetrics' own takes in the border, where the window reaches over
    # mirrored pixels, depends on its version. The paper's does not.
    _, places = structural_similarity_index_measure(
        *pair, data_range=1.0, reduction="none", return_full_image=True
    )
    return places[..., _BORDER:-_BORDER, _BORDER:-_BORDER].flatten(1).mean(1)
