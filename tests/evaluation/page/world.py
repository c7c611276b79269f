"""Finished evaluations on disk, made of the real dataclasses: a teacher and three students of the
embedded world, and, without pictures, SD v1.4 and a student under the published protocol.
"""

import csv
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_module
from PIL import Image

from bksdm.cli.config import built
from bksdm.data.shapes import samples
from bksdm.evaluation.comparison import compare
from bksdm.evaluation.results import Against, ModelResult, write_items, write_results
from bksdm.evaluation.score import Better, Items, Score
from bksdm.models.cost import unet_cost
from bksdm.models.source import TeacherSource, unet_config
from bksdm.surgery.blocks import student_config
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan

PROMPTS = 64
PLANS = {"runs/base": BASE, "runs/small": SMALL, "runs/tiny": TINY}
HOSTILE = (
    "<script>window.bad = 1</script>\"'><img src=x onerror='window.bad = 2'>$x$ {{ 7*7 }} &amp;"
)
DECIDING = "all attributes right"


@cache
def teacher_unet(name: str) -> dict[str, Any]:
    """The U-Net's config of a teacher of conf/teacher."""
    with initialize_config_module("bksdm.conf", version_base="1.3"):
        return unet_config(built(compose("plan", [f"teacher={name}"]).teacher, TeacherSource))


@cache
def cost(teacher: str, plan: BlockPlan | None) -> Mapping[str, Any]:
    """As `evaluation.cost.image_cost` stands in results."""
    config = teacher_unet(teacher)
    whole = unet_cost(config if plan is None else student_config(config, plan))
    return {"unet": {"total": asdict(whole), "stages": {}}}


def speed(ratio: float) -> dict[str, Any]:
    """As `evaluation.cost.latency` stands in results."""

    def measured(batch: int, seconds: float) -> dict[str, Any]:
        def around(value: float) -> dict[str, float]:
            return {"median": value, "low": 0.97 * value, "high": 1.04 * value}

        return {
            "batch": batch,
            "seconds": around(seconds * ratio),
            "per_second": batch / (seconds * ratio),
            "ratio": around(ratio),
            "peak_bytes": None,
            "out_of_memory": False,
        }

    return {
        "dtype": "float32",
        "unet_calls": [measured(1, 0.011), measured(2, 0.0197)],
        "images": [measured(1, 0.61), measured(8, 3.9)],
    }


def environment(name: str) -> dict[str, Any]:
    """As `evaluation.environment` writes it."""
    return {
        "command": f"bksdm evaluate model={name}",
        "date": "2026-11-20T18:00:00+00:00",
        "commit": "cfa5a6c",
        "versions": {"bksdm": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.1"},
        "hardware": {"device": "a processor", "threads": 2, "system": "Linux x86_64"},
    }


def shapes_result(name: str, number: int) -> ModelResult:
    """The teacher is number 0."""
    plan = PLANS.get(name)
    rng = np.random.default_rng(number)
    ids = tuple(f"{i:06d}" for i in range(PROMPTS))
    right = rng.random(PROMPTS) < (0.9, 0.86, 0.7, 0.35)[number]
    mse = 0.04 * number + 0.01 * rng.random(PROMPTS)
    loss = 0.124 + 0.004 * number
    steps = range(10, 1010, 10)
    teacher = teacher_shapes()
    return ModelResult(
        name=name,
        weights=f"{number + 10:x}" * 64,
        protocol={
            "name": "shapes",
            "decide": DECIDING,
            "prompts": PROMPTS,
            "settings": {"sampling": {"steps": 25, "guidance": 3.0}, "seed": 1_000_000},
        },
        scores=(
            mean(DECIDING, ids, right.astype(float), Better.HIGHER, percent=True),
            mean("latent MSE", ids, mse, Better.LOWER),
            replace(
                mean(
                    "denoising loss", ids, loss + 0.02 * rng.standard_normal(PROMPTS), Better.LOWER
                ),
                details={
                    "by timestep": [[t, 3 * loss / (1 + t / 90)] for t in range(50, 1000, 100)]
                },
            ),
            mean("SSIM", ids, 1 - 0.1 * number * rng.random(PROMPTS), Better.NEITHER),
        ),
        cost=cost("shapes", plan),
        speed=speed((1.0, 0.71, 0.66, 0.52)[number]),
        unet=teacher,
        plan=None if plan is None else asdict(plan) | {"teacher": teacher},
        environment=environment(name),
        images="images",
        curves={
            f"train/{term}_loss": [
                [s, scale * (0.2 + np.exp(-s / 150) + 0.05 * rng.random())] for s in steps
            ]
            for term, scale in (
                ("task", 1 + 0.1 * number),
                ("output_kd", 0.5 + 0.1 * number),
                ("feature_kd", 20 * number),
            )
        }
        if plan is not None
        else {},
    )


@cache
def teacher_shapes() -> dict[str, Any]:
    """The U-Net's config of the embedded teacher."""
    return teacher_unet("shapes")


def mean(
    name: str, ids: tuple[str, ...], values: Any, better: Better, *, percent: bool = False
) -> Score:
    """A score of these values, with an interval."""
    value, spread = float(np.mean(values)), 1.96 * float(np.std(values)) / len(ids) ** 0.5
    return Score(
        name=name,
        value=value,
        better=better,
        n=len(ids),
        low=value - spread,
        high=value + spread,
        interval="bootstrap",
        items=Items(ids, tuple(map(float, values))),
        percent=percent,
    )


def compared(result: ModelResult, baseline: ModelResult) -> ModelResult:
    """With its comparisons."""
    found = [
        compare(ours, theirs) for ours, theirs in zip(result.scores, baseline.scores, strict=True)
    ]
    comparisons = tuple(each for each in found if each is not None)
    against = Against(
        name=baseline.name,
        weights=baseline.weights,
        deciding=str(result.protocol["decide"]),
        comparisons=comparisons,
    )
    return replace(result, against=(against,))


def write_evaluation(result: ModelResult, folder: Path, *, number: int, side: int = 64) -> Path:
    """Results, items, prompts and pictures as `bksdm evaluate` leaves them."""
    write_results([result], folder / "results.json")
    write_items(result.scores, folder)
    (folder / "images").mkdir()
    rng = np.random.default_rng(number)
    with (folder / "prompts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "seed", "text"])
        for i, (scene, image) in enumerate(samples(PROMPTS, seed=5)):
            writer.writerow([f"{i:06d}", 1_000_000 + i, scene.caption])
            pixels = np.asarray(image.resize((side, side)), dtype=float)
            noisy = pixels + 12 * number * rng.standard_normal(pixels.shape)
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            picture.save(folder / "images" / f"{i:06d}.png", compress_level=1)
    return folder


def write_shapes(root: Path, *, side: int = 64) -> list[Path]:
    """A folder for each of teacher, Base, Small and Tiny."""
    results = [shapes_result(name, i) for i, name in enumerate(("shapes", *PLANS))]
    results = [results[0], *(compared(each, results[0]) for each in results[1:])]
    return [
        write_evaluation(each, root / "shapes" / f"model-{i}", number=i, side=side)
        for i, each in enumerate(results)
    ]


def published_results() -> list[ModelResult]:
    """Of SD v1.4 and its Small under the published protocol: scores of whole sets, nothing else."""
    config = teacher_unet("sd14")
    rows: list[tuple[str, BlockPlan | None, dict[str, float]]] = [
        ("sd14", None, {"FID": 13.11, "Inception Score": 36.5, "CLIP score ViT-g-14": 0.2957}),
        (
            "runs/sd14-small",
            SMALL,
            {"FID": 16.91, "Inception Score": 31.9, "CLIP score ViT-g-14": 0.2679},
        ),
    ]
    better = {"FID": Better.LOWER}
    results = [
        ModelResult(
            name=name,
            weights=f"{i + 1}" * 64,
            protocol={"name": "coco30k_bksdm", "decide": "CLIP score ViT-g-14"},
            scores=tuple(
                Score(name=score, value=value, better=better.get(score, Better.HIGHER), n=30_000)
                for score, value in scores.items()
            ),
            cost=cost("sd14", plan),
            unet=config if plan is None else student_config(config, plan),
            plan=None if plan is None else asdict(plan) | {"teacher": config},
            environment=environment(name),
        )
        for i, (name, plan, scores) in enumerate(rows)
    ]
    return [results[0], compared(results[1], results[0])]


def write_published(root: Path) -> list[Path]:
    """The same on disk."""
    folders = []
    for i, result in enumerate(published_results()):
        folders.append(root / "coco30k_bksdm" / f"model-{i}")
        write_results([result], folders[-1] / "results.json")
    return folders


def write_hostile(root: Path) -> Path:
    """Two models of which every name is markup."""
    teacher = shapes_result("shapes", 0)
    scores = tuple(replace(each, name=f"{each.name} {HOSTILE}") for each in teacher.scores)
    teacher = replace(
        teacher,
        name=HOSTILE,
        scores=scores,
        protocol={"name": HOSTILE, "decide": scores[0].name, HOSTILE: HOSTILE},
        environment={"command": HOSTILE},
        curves={HOSTILE: [[0, 1.0], [1, 0.5]]},
    )
    values = shapes_result("runs/small", 2).scores
    other = tuple(replace(a, items=b.items) for a, b in zip(scores, values, strict=True))
    small = replace(teacher, name=f"{HOSTILE} small", weights="5" * 64, scores=other)
    for i, each in enumerate((teacher, compared(small, teacher))):
        folder = write_evaluation(each, root / str(i), number=i)
        prompts = [[f"{p:06d}", p, f"{p} {HOSTILE}"] for p in range(PROMPTS)]
        with (folder / "prompts.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["id", "seed", "text"], *prompts])
    return root
