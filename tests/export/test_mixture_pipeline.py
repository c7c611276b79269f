from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.prompts import from_texts
from bksdm.evaluation.turns import in_turns
from bksdm.export.mixture_pipeline import MixturePipeline, taking_prompts
from bksdm.export.mixture_unet import MixtureUnet
from bksdm.surgery.narrow import narrow
from bksdm.surgery.sites import prunable_sites
from tests.conftest import tiny_pipeline
from tests.surgery.test_width import some_plan

TEXTS = ["a red circle", "a blue square", "a red square", "a green cross", "a blue circle"]
SAMPLING = Sampling(steps=2, guidance=3.0, batch_size=4)


def by_colour(prompts: Sequence[str]) -> list[int]:
    """A router that reads the prompt alone."""
    return [["red", "blue", "green"].index(text.split()[1]) for text in prompts]


def experts(stock: StableDiffusionPipeline) -> list[UNet2DConditionModel]:
    sites = prunable_sites(stock.unet)
    return [narrow(stock.unet, some_plan(sites, seed=seed)) for seed in range(3)]


def mixture(stock: StableDiffusionPipeline, *, in_memory: int = 2) -> MixturePipeline:
    each = experts(stock)
    unet = MixtureUnet(stock.unet.config, lambda number: each[number], in_memory=in_memory)
    pipeline = MixturePipeline(**{**stock.components, "unet": unet}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.of_experts(by_colour, weights="abc", shapes=list)


def drawn(pipeline: StableDiffusionPipeline, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    prompts = [p for p in from_texts(TEXTS, seed=3) if p.text in texts]
    return {item.prompt.text: item.latents for item in generate(pipeline, prompts, SAMPLING)}


def test_each_prompt_is_drawn_by_its_expert_in_the_order_asked() -> None:
    stock = tiny_pipeline("sd1")
    stock.set_progress_bar_config(disable=True)
    pipeline, each = mixture(stock), experts(stock)
    found = drawn(pipeline, TEXTS)
    assert list(found) == TEXTS
    for text, expert in zip(TEXTS, by_colour(TEXTS), strict=True):
        stock.register_modules(unet=each[expert])
        alone = drawn(stock, [text])[text]
        torch.testing.assert_close(found[text], alone, atol=1e-4, rtol=1e-4)


def test_pictures_do_not_depend_on_which_prompts_came_together() -> None:
    pipeline = mixture(tiny_pipeline("sd2"))
    pipeline.set_progress_bar_config(disable=True)
    together = drawn(pipeline, TEXTS)
    for text in TEXTS[1:3]:
        torch.testing.assert_close(drawn(pipeline, [text])[text], together[text], atol=1e-4, rtol=0)


def test_as_many_experts_in_memory_as_are_wanted() -> None:
    pipeline = mixture(tiny_pipeline("sd1"), in_memory=1)
    drawn(pipeline, TEXTS[:4])
    assert pipeline.unet.loaded == (2,)
    prompts = in_turns(pipeline, from_texts(TEXTS, seed=0))
    assert [p.text.split()[1] for p in prompts] == ["red", "red", "blue", "blue", "green"]


def test_it_calls_as_stock_pipelines_do() -> None:
    pipeline = mixture(tiny_pipeline("sd1"))
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    made = pipeline(
        ["a red circle", "a blue square"],
        num_inference_steps=1,
        num_images_per_prompt=2,
        generator=generators,
        negative_prompt=["a cross", "a square"],
    ).images
    assert len(made) == 4
    single = pipeline(
        "a blue square",
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(3),
        negative_prompt="a square",
        return_dict=False,
    )[0]
    assert np.abs(np.asarray(single[0], int) - np.asarray(made[3], int)).max() <= 1
    with pytest.raises(TypeError, match="as texts"):
        pipeline("a red circle", prompt_embeds=torch.zeros(1, 5, 16))


def test_the_unet_is_asked_with_prompts() -> None:
    pipeline = mixture(tiny_pipeline("sd1"))
    latents, text = torch.randn(4, 4, 8, 8), torch.randn(4, 5, 16)
    at = torch.tensor([1, 2, 3, 4])
    with pytest.raises(RuntimeError, match="taking"):
        pipeline.unet(latents, at, text)
    with taking_prompts(pipeline, TEXTS[:4]), torch.no_grad():
        found = pipeline.unet(latents, at, text).sample
        expected = pipeline.unet.expert(1)(latents[1:2], at[1:2], text[1:2]).sample
    torch.testing.assert_close(found[1:2], expected, atol=1e-5, rtol=1e-5)


def test_it_moves_and_casts_with_its_experts() -> None:
    pipeline = mixture(tiny_pipeline("sd1")).to(dtype=torch.bfloat16)
    assert pipeline.unet.dtype == pipeline.unet.expert(0).dtype == torch.bfloat16
    other = Sampling(steps=1, guidance=1.0, batch_size=1, scheduler="DDIMScheduler")
    assert isinstance(other.prepared(pipeline), MixturePipeline)
