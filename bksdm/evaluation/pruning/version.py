"""One pruned version of a pipeline: calibrate, and zero the weights of its components in turn."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from diffusers import StableDiffusionPipeline

from bksdm.errors import InputError
from bksdm.evaluation.pruning.calibration import (
    CalibrationSettings,
    Samples,
    samples_of,
    text_calls,
    unet_calls,
)
from bksdm.evaluation.pruning.grid import Configuration
from bksdm.export.sparse import recounted
from bksdm.models.cost import parameter_count
from bksdm.surgery.sparse.accounting import Sizes
from bksdm.surgery.sparse.cut import check_prunable, dense_again, prune
from bksdm.surgery.sparse.layers import Layer, Selection, prunable
from bksdm.surgery.sparse.plan import COMPONENTS, SparsityPlan
from bksdm.surgery.sparse.statistics import Calibration

_TEXT_ENCODER: Final = COMPONENTS[0]

SettingsOf = Callable[[int], CalibrationSettings]


def layers_of(
    pipeline: StableDiffusionPipeline, selection: Selection
) -> dict[str, dict[str, Layer]]:
    """The layers that may be pruned, by component.

    Raises:
        InputError: a pattern fits none, nothing is left, or the pipeline has no such network.
    """
    for name in COMPONENTS:
        if getattr(pipeline, name, None) is None:
            raise InputError(
                f"the pipeline has no {name}; expected a Stable Diffusion 1 or 2 with text encoder"
                " and U-Net"
            )
    networks = [getattr(pipeline, name) for name in COMPONENTS]
    return dict(zip(COMPONENTS, prunable(networks, selection), strict=True))


def sizes_of(pipeline: StableDiffusionPipeline) -> Sizes:
    """Numbers of weights of a pipeline's networks."""
    return Sizes(
        text_encoder=parameter_count(pipeline.text_encoder),
        unet=parameter_count(pipeline.unet),
        vae=parameter_count(pipeline.vae),
    )


def refuse_empty(layers: Mapping[str, Mapping[str, Layer]], wanted: Mapping[str, float]) -> None:
    """Refuse a component of which nothing is selected.

    Raises:
        InputError: names it.
    """
    for name, share in wanted.items():
        if not layers[name]:
            raise InputError(
                f"{name}={share:g}: include= and exclude= leave no layer of it; expected {name}=0,"
                " or other patterns"
            )


def refuse_unfit(
    pipeline: StableDiffusionPipeline, configuration: Configuration, *, already_sparse: bool
) -> None:
    """Refuse what cannot be pruned so, before hours of the dense model's pictures.

    Raises:
        InputError: see `cut.check_prunable`, `Method.budget` and `refuse_empty`.
    """
    layers, wanted = layers_of(pipeline, configuration.selection), configuration.point.pruned
    refuse_empty(layers, wanted)
    for name, share in wanted.items():
        method = configuration.methods[name]
        method.budget(share)
        check_prunable(layers[name], name, method, already_sparse=already_sparse)


def prune_pipeline(
    pipeline: StableDiffusionPipeline,
    configuration: Configuration,
    *,
    calibration: SettingsOf,
    samples: MutableMapping[int, Samples] | None = None,
    already_sparse: bool = False,
    before: SparsityPlan | None = None,
) -> SparsityPlan:
    """Zero weights of a pipeline in place: the text encoder first, whose states the U-Net's
    calibration then has.

    Args:
        pipeline: on its device.
        configuration: what goes.
        calibration: by seed; asked for only if a method looks at inputs.
        samples: what was made for calibration of the U-Net, by seed; what is missing is added.
        already_sparse: whether a pipeline that has zeros will do.
        before: what was zero in it; its tensors that are not pruned now stay in the plan.

    Raises:
        InputError: it cannot be pruned so.
    """
    layers, wanted = layers_of(pipeline, configuration.selection), configuration.point.pruned
    refuse_empty(layers, wanted)
    kept: MutableMapping[int, Samples] = {} if samples is None else samples
    known = {  # before anything is pruned: the samples are of the dense model
        name: _calibration(pipeline, configuration, name, calibration, kept) for name in wanted
    }
    parts = [
        prune(
            getattr(pipeline, name),
            layers[name],
            component=name,
            sparsity=sparsity,
            method=configuration.methods[name],
            calibration=known[name],
            seed=configuration.seed,
            already_sparse=already_sparse,
        )
        for name, sparsity in wanted.items()
    ]
    if configuration.calibrated:
        told = f"; {calibration(configuration.seed)}"
        parts = [replace(part, method=part.method + told) for part in parts]
    return with_earlier(SparsityPlan(components=tuple(parts)), before, pipeline)


def with_earlier(
    plan: SparsityPlan, before: SparsityPlan | None, pipeline: StableDiffusionPipeline
) -> SparsityPlan:
    """A plan with the tensors of an earlier one that it does not have, counted anew."""
    if before is None:
        return plan
    parts = []
    for name in COMPONENTS:
        now, old = plan.of(name), before.of(name)
        if old is None:
            parts += [now] if now else []
            continue
        known = {tensor.name for tensor in now.tensors} if now else set()
        left = tuple(tensor for tensor in old.tensors if tensor.name not in known)
        found = recounted(replace(old, tensors=left), getattr(pipeline, name))
        parts.append(replace(now, tensors=now.tensors + found.tensors) if now else found)
    return replace(plan, components=tuple(parts))


@contextmanager
def pruned(
    pipeline: StableDiffusionPipeline,
    configuration: Configuration,
    *,
    calibration: SettingsOf,
    samples: MutableMapping[int, Samples],
    already_sparse: bool,
    before: SparsityPlan | None,
) -> Iterator[SparsityPlan]:
    """The pipeline is pruned inside this block, and dense again after it; takes memory for a copy
    of the weights that may be pruned.
    """
    layers = layers_of(pipeline, configuration.selection)
    with ExitStack() as stack:
        for name in configuration.point.pruned:
            stack.enter_context(dense_again(layers[name]))
        yield prune_pipeline(
            pipeline,
            configuration,
            calibration=calibration,
            samples=samples,
            already_sparse=already_sparse,
            before=before,
        )


def _calibration(
    pipeline: StableDiffusionPipeline,
    configuration: Configuration,
    component: str,
    calibration: SettingsOf,
    samples: MutableMapping[int, Samples],
) -> Calibration | None:
    if not configuration.methods[component].needs:
        return None
    seed = configuration.seed
    settings = calibration(seed)
    prompts, size = settings.read(), settings.batch_size
    if component == _TEXT_ENCODER:
        return partial(text_calls, pipeline, prompts, batch_size=size)
    if seed not in samples:
        samples[seed] = samples_of(pipeline, prompts, settings)
    return partial(unet_calls, pipeline, samples[seed], batch_size=size)
