"""`student=expert`: from a plan and a selection to a narrow student, by the command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline

from bksdm.cli.main import main
from bksdm.data.selection import Selection
from bksdm.export.pipeline import load_pipeline
from bksdm.export.stranger import picture
from bksdm.surgery.narrow import masked, narrow
from bksdm.training.checkpoint import load_student, read_checkpoint
from bksdm.training.folder import RunFolder
from tests.conftest import tiny_run_arguments, tiny_unet
from tests.experts import DROPPED, tiny_plan, write_experts

Cli = Callable[..., int]


@pytest.fixture(scope="module")
def trained(sd1_folder: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experts of runs/way, and a run of two steps of the second one."""
    folder = tmp_path_factory.mktemp("expert")
    write_experts(folder / "runs" / "way" / "experts", shards)
    arguments = [*tiny_run_arguments(sd1_folder, shards), "student=expert", "trainer.max_steps=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["bksdm", *arguments, "plan=runs/way/experts/1"])
        assert main() == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path) -> Path:
    """The same for a single test, which runs in it."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "way-expert-1"


@pytest.fixture
def train(run_cli: Cli, tiny_run: list[str]) -> Cli:
    """`bksdm train` of an expert of the tiny teacher."""

    def run(*arguments: object) -> int:
        return run_cli(*tiny_run, "student=expert", "trainer.max_steps=2", *arguments)

    return run


def test_a_run_is_called_after_its_router_and_keeps_plan_and_samples(here: Path) -> None:
    settings = yaml.safe_load((here / "config.yaml").read_text())
    assert settings["data"]["selection"] == "runs/way/experts/1/samples.npz"
    assert RunFolder(here).plan() == tiny_plan(1)
    ours = read_checkpoint(here / "checkpoints" / "last.ckpt")["bksdm"]
    assert json.loads(ours["plan"]) == json.loads(tiny_plan(1).to_json())
    assert ours["data"]["order"]["selection"].startswith("10 samples (")
    student = load_student(here / "checkpoints" / "last.ckpt")
    wanted = {
        name: each.shape for name, each in narrow(tiny_unet("sd1"), tiny_plan(1)).named_parameters()
    }
    assert {name: each.shape for name, each in student.named_parameters()} == wanted


def test_it_resumes_with_the_same_plan_and_samples_only(
    here: Path,
    train: Cli,
    run_cli: Cli,
    tiny_run: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("plan=runs/way/experts/1") == 0
    assert "is finished: 2 steps" in capsys.readouterr().out
    assert train("plan=runs/way/experts/1", "trainer.max_steps=3") == 0
    told = capsys.readouterr().out
    assert "10 of 48 pictures in 2 of 3 shards" in told
    assert "resuming at step 2" in told
    assert train("plan=runs/way/experts/0", "name=way-expert-1") == 2
    assert "student.kept" in capsys.readouterr().err
    other = Path("runs/way/experts/1/samples.npz")
    Selection(np.arange(9), Selection.read(other).index).write(other)
    assert train("plan=runs/way/experts/1", "trainer.max_steps=4") == 2
    assert "data.selection was 10 samples (" in capsys.readouterr().err
    check = ["check", *tiny_run[1:], "student=expert", "plan=runs/way/experts/1"]
    assert run_cli(*check, "trainer.max_steps=4", "shards=index", "rehearsal=0") == 2
    problems = capsys.readouterr().err.splitlines()
    assert len(problems) == 1
    assert "data.selection was 10 samples (" in problems[0]
    assert train("plan=runs/way/experts/1", "trainer.max_steps=4", "data.selection=all") == 2
    assert "data.selection was 10 samples (" in capsys.readouterr().err


def test_the_small_folder_is_read_here_and_the_full_one_anywhere(
    here: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = load_pipeline(here / "student")
    assert ours.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.heads < 4
    with pytest.raises(OSError, match="no file named"):
        StableDiffusionPipeline.from_pretrained(here / "student", local_files_only=True)
    export = ["export", f"run={here}", "out=full", "export.masked=true"]
    assert run_cli(*export, "export.fresh_process=true") == 0
    assert "masked at full size, stock diffusers draws the same" in capsys.readouterr().out
    full = StableDiffusionPipeline.from_pretrained("full", safety_checker=None)
    assert sum(p.numel() for p in full.unet.parameters()) > sum(
        p.numel() for p in ours.unet.parameters()
    )
    assert np.abs(picture(full) - picture(ours)).max() < 1e-4


def test_verbs_read_it_and_the_card_says_what_it_is(
    here: Path, run_cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("push", f"run={here}", "repo=a/b", "license=mit", "dry_run=true") == 0
    card = (here / "README.md").read_text()
    assert "load_pipeline" in card
    assert "from_pretrained" not in card
    assert "10 samples (" in card
    assert f"Gone: `{DROPPED[0]}`, `{DROPPED[1]}`" in card
    assert run_cli("generate", f"model={here}", "prompt=a vase", "steps=1", "out=made") == 0
    assert list(Path("made").glob("*.png"))
    prune = ["prune", f"model={here}", "unet=0.3", "out=pruned", "criterion=magnitude"]
    for form, file in (("dense", "narrow"), ("packed", "packed")):
        assert run_cli(*prune, f"export.format={form}") == 0
        assert "stock diffusers" not in capsys.readouterr().out
        assert Path(f"pruned/unet/model.{file}.safetensors").is_file()
        again = load_pipeline(Path("pruned")).unet
        assert any((p == 0).float().mean() > 0.2 for p in again.parameters())
    assert run_cli("train", f"teacher={here}/student", "data=shapes", "name=x") == 2
    assert "its U-Net is narrow" in capsys.readouterr().err


def test_a_plan_is_told_a_stage_a_line_or_for_programs(
    here: Path, run_cli: Cli, sd1_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["plan", f"teacher={sd1_folder}", "student=expert", "plan=runs/way/experts/1/plan.json"]
    assert run_cli(*plan) == 0
    told = capsys.readouterr().out
    assert "down 1  resnet groups 4 of 8 (50 %)" in told
    assert "1 of 4 modules dropped" in told
    assert f"dropped: {', '.join(DROPPED)}" in told
    assert run_cli(*plan, "format=json") == 0
    values = json.loads(capsys.readouterr().out)
    student = load_student(here / "checkpoints" / "last.ckpt")
    assert values["student"]["parameters"] == sum(p.numel() for p in student.parameters())
    assert values["student"]["macs"] < values["teacher"]["macs"]
    assert [stage["name"] for stage in values["stages"]][4] == "mid_block"


def test_one_run_an_expert_in_one_command(here: Path, train: Cli, run_cli: Cli) -> None:
    del here
    plans = "plan=runs/way/experts/0,runs/way/experts/1"
    assert train(plans, "-m", "trainer.max_steps=1", "runs_dir=swept") == 0
    assert sorted(path.name for path in Path("swept").glob("w*")) == [
        "way-expert-0",
        "way-expert-1",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["student=small", "plan=runs/way/experts/0"], "only student=expert takes a plan"),
        ([], "plan= is missing"),
        (["plan=runs/nowhere"], "no plan.json there"),
        (["plan=runs/way/experts/1/samples.npz"], "no width plan"),
        (["plan=runs/way/experts/0", "data.mode=stream"], "with data.mode=stream"),
        (["plan=runs/way/experts/0", "data.global_batch=16"], "10 samples to train on"),
        (["plan=runs/way/experts/0", "export.fp16=true"], "export.masked=true"),
        (["student=small", "export.masked=true"], "stock already"),
        (["plan=runs/way/experts/0", "data.selection=none.npz"], "no such file"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    here: Path,
    train: Cli,
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del here
    assert train(*arguments, "name=refused") == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not Path("runs/refused").exists()


def test_before_training_it_answers_as_its_masked_teacher() -> None:
    teacher, plan = tiny_unet("sd1"), tiny_plan(1)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([7, 800]), torch.randn(2, 5, 16)
    with torch.no_grad():
        small, full = (
            each.eval()(*inputs).sample for each in (narrow(teacher, plan), masked(teacher, plan))
        )
    assert (small - full).abs().max() < 1e-5
