"""A mixture as a pipeline like stock diffusers' own: it routes each prompt by itself, makes the
pictures expert by expert, and returns them in the order asked.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from torch import Tensor

from bksdm.export.mixture_unet import MixtureUnet

_PER_PROMPT: Final = ("generator", "latents", "negative_prompt")

Route = Callable[[Sequence[str]], list[int]]
Shapes = Callable[[], list[tuple[float, UNet2DConditionModel]]]


class MixturePipeline(StableDiffusionPipeline):  # type: ignore[misc]
    """Calls as `StableDiffusionPipeline`'s. Which expert makes a picture depends on its prompt
    alone, so a picture does not depend on which prompts came with it (but for the float rounding of
    another batch size). Prompts are texts: embeddings cannot be routed.
    """

    route: Route
    weights: str
    shapes: Shapes

    def of_experts(self, route: Route, *, weights: str, shapes: Shapes) -> "MixturePipeline":
        """Itself, with the router: B prompts to B experts.

        Args:
            route: which expert each prompt goes to.
            weights: hash of the router and of all experts.
            shapes: the experts without their weights, each with its share of the training prompts.
        """
        self.route, self.weights, self.shapes = route, weights, shapes
        return self

    def turns(self, prompts: Sequence[str]) -> list[int]:
        """Positions of the prompts, expert by expert: in this order each expert is read once."""
        routes = self.route(list(prompts))
        return sorted(range(len(routes)), key=lambda position: routes[position])

    @torch.no_grad()
    def __call__(self, prompt: str | list[str], *arguments: Any, **settings: Any) -> Any:
        """Pictures of the prompts, in their order.

        Args:
            prompt: one or several.
            arguments: as stock diffusers takes them after the prompt, height and width first.
            settings: its others by name. Of generators, latents and negative prompts each goes with
                its prompt; give a generator a picture, as a single one is used expert by expert.

        Raises:
            TypeError: there are embeddings in place of prompts.
        """
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            if settings.get(name) is not None:
                raise TypeError(f"{name}: a mixture routes prompts; give them as texts")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        return_dict = settings.pop("return_dict", True)
        each = settings.get("num_images_per_prompt") or 1
        routes = self.route(prompts)
        found: dict[int, Any] = {}
        for expert in dict.fromkeys(routes):
            rows = [row for row, of in enumerate(routes) if of == expert]
            own = settings | {
                name: _part(settings[name], rows, len(prompts))
                for name in _PER_PROMPT
                if name in settings
            }
            with self.unet.taking([expert]):
                images = super().__call__([prompts[row] for row in rows], *arguments, **own).images
            for place, row in enumerate(rows):
                found[row] = images[place * each : (place + 1) * each]
        in_order = [found[row] for row in range(len(prompts))]
        images = _joined(in_order)
        if not return_dict:
            return (images, None)
        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)


@contextmanager
def taking_prompts(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> Iterator[None]:
    """Inside the block the pipeline's U-Net can be asked for rows of these prompts, which of a
    mixture are its experts' business; to any other pipeline it makes no difference.
    """
    if not isinstance(pipeline, MixturePipeline):
        yield
        return
    unet: MixtureUnet = pipeline.unet
    with unet.taking(pipeline.route(list(prompts))):
        yield


def _part(value: Any, rows: Sequence[int], prompts: int) -> Any:
    """Those of some prompts, of what has an entry a prompt, or one a picture."""
    if isinstance(value, str):  # a negative prompt for all
        return [value] * len(rows)
    if not isinstance(value, list | tuple | Tensor) or len(value) % prompts:
        return value
    span = len(value) // prompts
    places = [row * span + place for row in rows for place in range(span)]
    return value[places] if isinstance(value, Tensor) else [value[place] for place in places]


def _joined(parts: Sequence[Any]) -> Any:
    """Pictures of all prompts as the stock pipeline returns them: tensors, arrays, or a list."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], list):
        return [image for part in parts for image in part]
    return np.concatenate(list(parts))
