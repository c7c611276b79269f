"""bksdm evaluate."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from bksdm.cli.config import built
from bksdm.cli.models import named_pipeline
from bksdm.evaluation.report import shapes_tables
from bksdm.evaluation.shapes import Reference, ShapesProtocol, ShapesResult, evaluate_shapes
from bksdm.export.pipeline import assemble, best_device
from bksdm.models.teacher import Teacher
from bksdm.training.folder import RunFolder


def run(config: DictConfig) -> int:
    """Score the models after their baseline, print the table, write results.json."""
    names = list(config.model) if isinstance(config.model, ListConfig) else [config.model]
    everyone = ([config.baseline] if config.baseline else []) + [
        name for name in names if name != config.baseline
    ]
    pipelines = {name: named_pipeline(name) for name in everyone}
    default = (
        Path(names[-1]) / "evaluate.json"
        if RunFolder(Path(names[-1])).config.exists()
        else Path("results.json")
    )
    _evaluate(
        pipelines,
        built(config.protocol, ShapesProtocol),
        out=Path(config.out) if config.out else default,
    )
    return 0


def compare_models(
    unets: Mapping[str, UNet2DConditionModel],
    teacher: Teacher,
    protocol: ShapesProtocol,
    *,
    out: Path,
) -> list[ShapesResult]:
    """Score U-Nets that share the teacher's other parts; the first is the one that the others are
    compared with.
    """
    for unet in unets.values():
        unet.eval().requires_grad_(requires_grad=False)
    return _evaluate(
        {name: assemble(teacher, unet) for name, unet in unets.items()}, protocol, out=out
    )


def _evaluate(
    pipelines: Mapping[str, StableDiffusionPipeline], protocol: ShapesProtocol, *, out: Path
) -> list[ShapesResult]:
    results: list[ShapesResult] = []
    reference: Reference | None = None
    for name, pipeline in pipelines.items():
        pipeline.to(best_device())
        total = protocol.prompts + protocol.held_out
        if not sys.stdout.isatty():
            print(f"evaluating {name}: {total} images", flush=True)
        with tqdm(total=total, desc=f"images of {name}", unit="image", disable=None) as bar:
            result, made = evaluate_shapes(
                pipeline, protocol, name=name, teacher=reference, advance=bar.update
            )
        reference = reference or made
        results.append(result)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps([result.to_dict() for result in results], indent=1))
    temporary.replace(out)
    print(f"\n{shapes_tables(results)}\n\nresults: {out}")
    return results
