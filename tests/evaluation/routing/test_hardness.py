import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from bksdm.diffusion import Diffusion
from bksdm.evaluation.routing import told
from bksdm.evaluation.routing.hardness import (
    TIMES,
    RatedPrompt,
    denoising_losses,
    difficulties,
    hardness,
    kinds,
    spearman,
)
from tests.conftest import WIDTH, tiny_pipeline

ONE = "a big red circle on a white background"
TWO = "a big red circle left of a small blue cross on a white background"


def test_the_correlation_is_scipy_s_with_ties() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.random(60)
    macs = np.round(difficulty + rng.random(60)) / 2
    found = spearman(list(difficulty), list(macs))
    assert found is not None
    assert found.value == pytest.approx(spearmanr(difficulty, macs).statistic)
    assert 0 < found.low < found.value < found.high < 1
    assert spearman(list(difficulty), [0.5] * 60) is None
    assert spearman([1.0, 2.0], [1.0, 2.0]) is None


def test_it_is_said_in_words() -> None:
    def sentence(sign: int) -> str:
        rated = [
            RatedPrompt(
                prompt=f"{i:02}", difficulty=i, expert=0, macs_share=sign * i if sign else i % 2
            )
            for i in range(40)
        ]
        return told.correlation(hardness(rated, timesteps=[1], losses=[0.1]))

    assert sentence(1).startswith("Harder prompts get larger experts (Spearman 1.00, 95 %")
    assert sentence(-1).startswith("Harder prompts get smaller experts (Spearman -1.00")
    assert sentence(0).startswith("Whether harder prompts get larger experts is open")
    few = hardness([], timesteps=[1], losses=[0.1])
    assert "cannot be said" in told.correlation(few)


def test_hardest_and_easiest() -> None:
    rated = [RatedPrompt(prompt=f"{i:02}", difficulty=i, expert=0, macs_share=1) for i in range(15)]
    found = hardness(rated, timesteps=[1], losses=[0.1])
    assert [each.difficulty for each in found.hardest] == list(range(14, 4, -1))
    assert [each.difficulty for each in found.easiest] == list(range(10))


def test_losses_do_not_depend_on_the_batch_and_are_squared_errors() -> None:
    pipeline = tiny_pipeline("sd2")
    diffusion = Diffusion.from_scheduler_config(dict(pipeline.scheduler.config))
    rng = torch.Generator().manual_seed(0)
    latents, text = torch.randn(3, 4, 8, 8, generator=rng), torch.randn(3, 7, WIDTH, generator=rng)

    def ask(noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        answer: Tensor = pipeline.unet(noisy, timesteps, states).sample
        return answer

    together = denoising_losses(ask, diffusion, latents, text)
    alone = denoising_losses(ask, diffusion, latents[1:2], text[1:2])
    assert together.shape == (3, len(TIMES))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    exact = denoising_losses(lambda noisy, at, states: 0 * noisy, diffusion, 0 * latents, text)
    # Of empty latents v is sqrt(abar) noise: the loss of the answer 0 is about abar.
    times = [int(time * diffusion.steps) for time in TIMES]
    torch.testing.assert_close(
        exact[0].float(), diffusion.alphas_cumprod[times], rtol=0.3, atol=0.0
    )


def test_difficulty_weighs_timesteps_alike_and_is_a_mean_over_a_caption_s_pictures() -> None:
    losses = torch.tensor([[10.0, 0.1], [30.0, 0.1], [20.0, 0.1]])
    assert difficulties(["a", "b", "b"], losses) == pytest.approx({"a": 0.75, "b": 1.125})


def test_kinds_are_those_of_the_grammar() -> None:
    found = kinds([(ONE, 3, 0.4), (TWO, 1, 0.8), ("a photo of a cat", 9, 1.0)], {TWO: 1.5})
    assert [(k.kind, k.prompts, k.macs_share, k.difficulty) for k in found] == [
        ("one object", 3, pytest.approx(0.4), None),
        ("two objects", 1, 0.8, 1.5),
        ("two objects, left of", 1, 0.8, 1.5),
    ]
    assert kinds([("a photo of a cat", 9, 1.0)], {}) == ()
