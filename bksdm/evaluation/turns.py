"""The order in which prompts are sampled: a mixture's expert by expert, so that each is read once
and its batches are full. Pictures do not depend on it: every prompt has its own seed.
"""

from collections.abc import Sequence

from diffusers import StableDiffusionPipeline

from bksdm.evaluation.prompts import Prompt
from bksdm.export.mixture_pipeline import MixturePipeline


def in_turns(pipeline: StableDiffusionPipeline, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts expert by expert; as they are for any other pipeline."""
    if not isinstance(pipeline, MixturePipeline) or not prompts:
        return list(prompts)
    return [prompts[position] for position in pipeline.turns([each.text for each in prompts])]
