"""What `bksdm prune` works on, from settings: methods, curves, and the study that judges them."""

import copy
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from diffusers import StableDiffusionPipeline
from omegaconf import DictConfig, OmegaConf

from bksdm.cli.config import built, plain, switch
from bksdm.cli.to_prune import ToPrune
from bksdm.data.shapes import IMAGE_SIZE
from bksdm.errors import InputError
from bksdm.evaluation.fingerprint import fingerprint, part_hashes
from bksdm.evaluation.prompts import ShapesPrompts
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.pruning.calibration import CalibrationSettings
from bksdm.evaluation.pruning.grid import Curve, Grid, label_of
from bksdm.evaluation.pruning.study import Study
from bksdm.export.pipeline import best_device
from bksdm.surgery.sparse.budget import Pattern
from bksdm.surgery.sparse.layers import Selection
from bksdm.surgery.sparse.method import Method
from bksdm.surgery.sparse.plan import COMPONENTS

T = TypeVar("T")

_BETWEEN_SEEDS: Final = 1_000_003  # prompts of one seed have neighbouring seeds


def method_of(node: DictConfig, name: str) -> Method:
    """The method that a node of conf/criterion describes.

    Raises:
        InputError: it is none.
    """
    if not isinstance(node, DictConfig) or "criterion" not in node:
        raise InputError(f"{name}={node}: expected a criterion, as conf/criterion/*.yaml have them")
    pattern = node.get("pattern")
    own = OmegaConf.masked_copy(node, [str(key) for key in node if key != "pattern"])
    parsed = None if pattern is None else Pattern.parsed(str(pattern))
    return built(own, Method, pattern=parsed)


def selection_of(config: DictConfig, layers: str | None = None) -> Selection:
    """Which layers."""
    return Selection(
        layers=layers or config.layers,
        include=_texts(config, "include"),
        exclude=_texts(config, "exclude"),
    )


def _texts(config: DictConfig, name: str) -> tuple[str, ...]:
    value = config[name]
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def curves_of(config: DictConfig) -> list[Curve]:
    """The curves of a sweep.

    Raises:
        InputError: one has a criterion that is not described, or no points.
    """
    for name in ("criteria", "curves"):
        if not isinstance(config[name], DictConfig):
            raise InputError(
                f"{name}={config[name]}: expected entries by name, as those of"
                " conf/experiment/shapes_grid.yaml"
            )
    known = {
        str(name): method_of(node, f"criteria.{name}") for name, node in config.criteria.items()
    }
    found = []
    for name, node in config.curves.items():
        grid = built(node.grid, object)
        if not node.criteria:
            raise InputError(f"curves.{name}.criteria: expected at least one of {', '.join(known)}")
        curve = Curve(
            name=str(name),
            grid=_grid(grid, str(name)),
            methods=dict(_labelled(each, known, str(name)) for each in node.criteria),
            selection=selection_of(config, node.get("layers")),
            line=bool(node.get("line", True)),
        )
        found.append(curve)
    return found


def _grid(grid: Any, name: str) -> Grid:
    if not hasattr(grid, "along") or not grid.points:
        raise InputError(f"curves.{name}.grid: it has no points; expected at least one")
    made: Grid = grid
    return made


def _labelled(
    entry: Any, known: Mapping[str, Method], curve: str
) -> tuple[str, Mapping[str, Method]]:
    """A criterion's name for both components, or {component: name}."""
    names = entry if isinstance(entry, DictConfig) else dict.fromkeys(COMPONENTS, entry)
    for component in COMPONENTS:
        if names.get(component) not in known:
            raise InputError(
                f"curves.{curve}.criteria: {names.get(component)} for the {component} is none of"
                f" criteria={', '.join(known)}"
            )
    label = label_of(str(names[component]) for component in COMPONENTS)
    return label, {component: known[names[component]] for component in COMPONENTS}


def calibration_values(config: DictConfig, methods: Iterable[Method]) -> dict[str, Any]:
    """Settings of the calibration as plain values; none where no method looks at inputs, so that
    captions need not be given then.

    Raises:
        InputError: a method does, and they are not.
    """
    if not any(method.needs for method in methods):
        return {}
    with_seed(config, "calibration", CalibrationSettings, 0).read()
    return plain(config.calibration)


def check_calibration(pipeline: StableDiffusionPipeline, config: DictConfig) -> None:
    """Refuse to calibrate another model on the embedded world, whose captions say nothing to it.

    Raises:
        InputError: how to give others.
    """
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    prompts = with_seed(config, "calibration", CalibrationSettings, 0).prompts
    if isinstance(prompts, ShapesPrompts) and side != IMAGE_SIZE:
        raise InputError(
            f"calibration=shapes is of the embedded world, and this model makes {side}x{side}"
            " pictures; use calibration=captions calibration.prompts.path=captions.txt"
        )


def study_of(
    config: DictConfig,
    model: ToPrune,
    root: Path,
    *,
    calibration: Mapping[str, Any],
) -> Study:
    """How versions of a model are judged; it is loaded, cast and moved as its pictures are made."""
    pipeline = model.load()
    if calibration:
        check_calibration(pipeline, config)
    weights = fingerprint(part_hashes(pipeline))
    first = with_seed(config, "protocol", Protocol, 0)
    prepared = first.sampling.prepared(pipeline.to(best_device()))
    settings = {"protocol": plain(config.protocol), "calibration": calibration}
    return Study(
        pipeline=prepared,
        weights=weights,
        protocol=lru_cache(lambda seed: with_seed(config, "protocol", Protocol, seed)),
        calibration=lambda seed: with_seed(config, "calibration", CalibrationSettings, seed),
        settings=settings,
        root=root,
        already_sparse=switch(config, "already_sparse"),
        before=model.sparsity,
    )


def with_seed(config: DictConfig, group: str, kind: type[T], seed: int) -> T:
    """A group's object with the seed of its prompts moved on."""
    own = copy.deepcopy(config)  # all of it: the group refers to itself from the root
    own[group].prompts.seed += seed * _BETWEEN_SEEDS
    return built(own[group], kind)
