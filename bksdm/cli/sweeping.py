"""Sweeps and searches of `bksdm prune`: run, print, write."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from bksdm import expected
from bksdm.atomic import replacing
from bksdm.cli.config import folder, hydra_flags, task_overrides
from bksdm.cli.progress import Progress
from bksdm.cli.pruning import calibration_values, curves_of, selection_of, study_of
from bksdm.cli.to_prune import ToPrune
from bksdm.errors import InputError
from bksdm.evaluation.gallery import slug
from bksdm.evaluation.pruning.grid import Configuration, Point, label_of
from bksdm.evaluation.pruning.pictures import write_curves, write_strips
from bksdm.evaluation.pruning.pooled import Version, pooled, pooled_dense
from bksdm.evaluation.pruning.search import best_split
from bksdm.evaluation.pruning.study import Study
from bksdm.evaluation.pruning.sweep import (
    check_decides,
    configurations,
    damages,
    loss_of,
    sweep,
)
from bksdm.evaluation.pruning.tables import (
    accounting_table,
    curve_tables,
    damage_table,
    point_told,
    version_told,
    write_points,
    write_summary,
)
from bksdm.evaluation.pruning.version import layers_of
from bksdm.surgery.sparse.method import Method
from bksdm.surgery.sparse.plan import COMPONENTS

_POINTS: Final = 2.0  # of 100 prompts, that may be lost unless something else is said


def run_sweep(config: DictConfig, model: ToPrune) -> int:
    """All versions of the curves; tables, pictures and the operating point."""
    curves, seeds = curves_of(config), _seeds(config)
    out = _out(config, model, str(HydraConfig.get().runtime.choices.get("experiment") or "sweep"))
    methods = [each for curve in curves for own in curve.methods.values() for each in own.values()]
    study = study_of(config, model, out, calibration=calibration_values(config, methods))
    every = [c for seed in seeds for _, c in configurations(curves, seed)]
    there = sum(map(study.has, every))
    if there:
        print(f"{there} of {len(every)} versions are there", flush=True)
    with Progress(len(every), what=model.name, unit="version") as progress:
        swept = sweep(study, curves, seeds, advance=progress.advance)
    found, limit = damages(swept), _limit(config, swept.dense, swept.decide)
    prompts = study.protocol(seeds[0])
    written = [
        write_points([swept.dense, *swept.versions], out),
        write_summary(swept, found, out, max_loss=limit),
        *write_curves(swept, found, out),
        *write_strips(swept, prompts.prompts.read(), out, suffix=prompts.keeping.suffix),
    ]
    print(
        "",
        curve_tables(swept),
        damage_table(found, swept.decide),
        point_told(swept, max_loss=limit),
        "\n".join(f"written: {path}" for path in written),
        sep="\n\n",
    )
    return 0


def run_search(config: DictConfig, model: ToPrune, methods: Mapping[str, Method]) -> int:
    """The split with the most zeros that loses at most `max_loss`."""
    expected.number("step", config.step, least=0.01, most=0.5)
    label = label_of(method.name for method in methods.values())
    seeds, out = _seeds(config), _out(config, model, f"best-{label}-{config.layers}")
    values = calibration_values(config, methods.values())
    study = study_of(config, model, out, calibration=values)
    decide = study.protocol(seeds[0]).decide
    tried: dict[Point, Version] = {}
    dense = pooled_dense([study.dense(seed) for seed in seeds])
    check_decides(dense, decide)
    limit = _needed_limit(config, dense, decide)

    def good(point: Point) -> bool:
        tried[point] = version = _version(config, study, methods, point, seeds, dense)
        fine = loss_of(version, decide) <= limit
        print(f"{len(tried):3}  {version_told(version, decide)}: {'ok' if fine else 'too much'}")
        return fine

    layers = layers_of(study.pipeline, selection_of(config))
    sizes = {n: sum(layer.weight.numel() for layer in layers[n].values()) for n in COMPONENTS}
    found = best_split(
        good, weights=(sizes["text_encoder"], sizes["unet"]), step=float(config.step)
    )
    write_points([dense, *tried.values()], out)
    _write(
        out / "best.json",
        {
            "model": model.name,
            "method": label,
            "layers": selection_of(config).words,
            "decide": decide,
            "max_loss": limit,
            "seeds": seeds,
            "step": float(config.step),
            "text_encoder": found.best.text_encoder,
            "unet": found.best.unet,
            "evaluations": len(found.tried),
            "lattice": found.lattice,
        },
    )
    told = f"{len(found.tried)} evaluations, of {found.lattice:,} points of the lattice"
    if not found.best.pruned:
        print(f"nothing loses at most {limit:g} in {decide}; {told}")
        return 0
    best = tried[found.best]
    print(f"\nbest: {version_told(best, decide)}\n{told}\n")
    print(accounting_table(best.measured[0].accounting))
    print(f"\nto write it: {_command(found.best, seeds[0])}")
    return 0


def _needed_limit(config: DictConfig, dense: Version, decide: str) -> float:
    limit = _limit(config, dense, decide)
    if limit is None:
        raise InputError(
            f"find=best: expected max_loss=, in units of {decide}, of which the dense model has"
            f" {dense.scores[decide].value:.4g}"
        )
    return limit


def _limit(config: DictConfig, dense: Version, decide: str) -> float | None:
    """What may be lost; None where nothing is said, and no share of prompts tells its own unit."""
    if config.max_loss is not None:
        return float(config.max_loss)
    return _POINTS if dense.scores[decide].percent else None


def _version(
    config: DictConfig,
    study: Study,
    methods: Mapping[str, Method],
    point: Point,
    seeds: list[int],
    dense: Version,
) -> Version:
    label = label_of(method.name for method in methods.values())
    selection = selection_of(config)
    measured = [
        study.measured(
            Configuration(label=label, methods=methods, selection=selection, point=point, seed=seed)
        )
        for seed in seeds
    ]
    return pooled("search", measured, dense)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _command(best: Point, seed: int) -> str:
    """That prunes one model as this search has done."""
    gone = ("find=", "max_loss=", "step=", "seeds=", "protocol", "seed=", "out=")
    kept = [item for item in task_overrides() if not item.startswith(gone)]
    point = [f"text_encoder={best.text_encoder:g}", f"unet={best.unet:g}"]
    more = [f"seed={seed}"] if seed else []
    return shlex.join(["bksdm", "prune", *hydra_flags(), *kept, *point, *more])


def _seeds(config: DictConfig) -> list[int]:
    if not isinstance(config.seeds, ListConfig) or not config.seeds:
        raise InputError(f"seeds={config.seeds}: expected a list of whole numbers, such as [0,1,2]")
    for seed in config.seeds:
        expected.count("seeds", seed, least=0)
    return list(dict.fromkeys(config.seeds))


def _out(config: DictConfig, model: ToPrune, what: str) -> Path:
    if config.out:
        return folder(config, "out")
    return Path("pruned") / f"{slug(model.name)}-{what}"
