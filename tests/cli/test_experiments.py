"""The published recipes: each composes by its own command, chooses the published plan, and its lab
note tells what follows from it.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bksdm.conf
import pytest
import yaml

from bksdm.models.cost import Cost, unet_cost
from bksdm.surgery.blocks import student_config
from bksdm.surgery.plan import BlockPlan

Cli = Callable[..., int]
Settings = dict[str, Any]
FOLDER = Path(bksdm.conf.__file__).parent / "experiment"
# U-Net parameters: safetensors headers of the released students (nota-ai/bk-sdm-*).
PARAMETERS = {
    ("sd14", "base"): 579_384_964,
    ("sd14", "small"): 482_346_884,
    ("sd14", "tiny"): 323_384_964,
    ("sd21_base", "base"): 583_480_964,
    ("sd21_base", "small"): 485_787_524,
    ("sd21_base", "tiny"): 326_825_604,
}
RECIPES = {
    f"bk_{middle}{student}{end}": (teacher, student, batch)
    for student in ("base", "small", "tiny")
    for middle, end, teacher, batch in (
        ("", "_212k", "sd14", 256),
        ("", "_2m", "sd14", 256),
        ("v2_", "", "sd21_base", 128),
    )
}


SWEEPS = ("sd2_grid", "shapes_grid", "shapes_quick")  # of `bksdm prune`; the others are runs
ROUTERS = ("route_aptp", "route_shapes")  # of `bksdm route`


@pytest.fixture
def settings(run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> Callable[..., Settings]:
    """What `bksdm VERB ... --cfg job --resolve` prints."""

    def composed(*arguments: str, verb: str = "train") -> Settings:
        data = ["data.shards=a.tar", "data.validation_shards=b.tar"] * (verb != "prune")
        assert run_cli(verb, *arguments, *data, "--cfg", "job", "--resolve") == 0
        result: Settings = yaml.safe_load(capsys.readouterr().out)
        return result

    return composed


def costs(config: Settings) -> tuple[Cost, Cost]:
    """Of teacher and student."""
    teacher = config["teacher"]["architecture"]["unet"]
    plan = BlockPlan(down=config["student"]["down"], mid=config["student"]["mid"])
    return unet_cost(teacher), unet_cost(student_config(teacher, plan))


def test_there_is_a_file_for_every_published_recipe_and_no_other() -> None:
    runs = {*RECIPES, "bk_sdm", "shapes"}
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*runs, *SWEEPS, *ROUTERS}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_experiment_composes_by_the_command_in_its_lab_note(
    name: str, settings: Callable[..., Settings]
) -> None:
    command = (FOLDER / f"{name}.yaml").read_text().splitlines()[1]
    verb = re.findall(r"bksdm (\w+)", command)[0]
    alone = command.split(";")[0]
    overrides = re.findall(r"[a-z0-9_.]+=(?:'[^']*'|\S+)", alone)
    config = settings(*[item for item in overrides if not item.startswith("data.")], verb=verb)
    assert verb == {**dict.fromkeys(SWEEPS, "prune"), **dict.fromkeys(ROUTERS, "route")}.get(
        name, "train"
    )
    assert config["curves"] if name in SWEEPS else config["trainer"]["max_steps"] > 0
    if name in (*RECIPES, *SWEEPS):
        assert f"experiment={name}" in overrides


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_published_one(name: str, settings: Callable[..., Settings]) -> None:
    teacher, student, batch = RECIPES[name]
    config = settings(f"experiment={name}")
    assert config["teacher"]["name"] == teacher
    assert costs(config)[1].parameters == PARAMETERS[teacher, student]
    assert config["trainer"]["max_steps"] == 50_000
    assert config["data"]["global_batch"] == batch
    assert config["data"]["batch_size"] == batch // 4
    assert (config["optimizer"]["lr"], config["data"]["caption_dropout"]) == (5e-5, 0)
    data = "2m" if name.endswith("_2m") else "212k"
    assert config["name"] == f"{teacher}-{student}-{data}"


@pytest.mark.parametrize("name", RECIPES)
def test_the_hours_in_a_lab_note_follow_from_the_macs(
    name: str, settings: Callable[..., Settings]
) -> None:
    config = settings(f"experiment={name}")
    teacher, student = costs(config)
    images = config["trainer"]["max_steps"] * config["data"]["global_batch"]
    hours = images * 2 * (teacher.macs + 3 * student.macs) / (0.35 * 990e12) / 3600
    note = (FOLDER / f"{name}.yaml").read_text()
    assert f"# 1 x H100: {hours:.0f} hours expected from FLOPs" in note
    assert "ours: -" in note


def test_the_command_line_wins_over_an_experiment(settings: Callable[..., Settings]) -> None:
    config = settings("experiment=bk_small_212k", "student=tiny", "teacher=sd15", "trainer=cpu")
    assert costs(config)[1].parameters == PARAMETERS["sd14", "tiny"]
    assert config["name"] == "sd15-tiny-212k"  # the run is named for what it is
    assert (config["teacher"]["name"], config["trainer"]["accelerator"]) == ("sd15", "cpu")


def test_an_experiment_wins_over_the_defaults_but_a_teacher_brings_the_published_one(
    settings: Callable[..., Settings],
) -> None:
    assert settings("teacher=sd14")["optimizer"]["lr"] == 5e-5
    own = settings("teacher=some/folder", "experiment=bk_tiny_2m")
    assert (own["name"], own["teacher"]["path"]) == ("folder-tiny-2m", "some/folder")


def test_an_experiment_leaves_the_data_to_the_user(
    run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("train", "experiment=bk_base_212k", "trainer=cpu") == 2
    assert "data.shards= is missing" in capsys.readouterr().err
