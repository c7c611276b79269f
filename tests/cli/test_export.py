"""`bksdm export` of runs and checkpoint files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bksdm.export.pipeline import load_pipeline
from bksdm.training.checkpoint import load_student

Cli = Callable[..., int]
FAST = "export.fresh_process=false"


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_checkpoint_alone_knows_its_plan_and_its_teacher(
    run_cli: Cli, whole: Path, tmp_path: Path, weights: str
) -> None:
    checkpoint, out = whole / "checkpoints" / "step_2.ckpt", tmp_path / "out"
    arguments = [f"checkpoint={checkpoint}", f"out={out}", f"weights={weights}", FAST]
    assert run_cli("export", *arguments) == 0
    expected = load_student(checkpoint, weights=weights).state_dict()  # type: ignore[arg-type]
    found = load_pipeline(out).unet.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    about = json.loads((out / "bksdm.json").read_text())
    assert (about["weights"], about["step"]) == (weights, 2)
    assert about["plan"]["mid"] is False


def test_an_identity_mid_block_and_half_precision(run_cli: Cli, whole: Path) -> None:
    more = ["export.identity_mid=true", "export.fp16=true", "export.single_file=true"]
    assert run_cli("export", f"run={whole}", "out=out", FAST, *more) == 0
    config = json.loads(Path("out/unet/config.json").read_text())
    assert config["mid_block_type"] == "UNetMidBlock2DCrossAttn"
    assert Path("out/unet/diffusion_pytorch_model.fp16.safetensors").exists()
    assert Path("out/out.safetensors").exists()
    assert Path("out/out.fp16.safetensors").exists()
    said = json.loads(Path("out/bksdm.json").read_text())["export"]
    assert said == {
        "fp16": True,
        "identity_mid": True,
        "single_file": True,
        "masked": False,
        "fresh_process": False,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to export"),
        (["run=nowhere"], "no config.yaml there"),
        (["checkpoint=nowhere.ckpt", "out=o"], "no checkpoint at"),
        (["run={run}", "weights=average"], "expected ema or raw"),
        (["run={run}", "export.fp16=maybe"], "export.fp16"),
        (["run={run}", "export.half=true"], "no setting 'export.half'"),
        (["checkpoint={run}/checkpoints/last.ckpt"], "out= is missing"),
    ],
)
def test_bad_settings(
    run_cli: Cli,
    whole: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli("export", *(each.format(run=whole) for each in arguments)) == 2
    told = capsys.readouterr().err.strip()
    assert words in told
    assert len(told.splitlines()) == 1


def test_a_folder_of_somebody_else_stays(
    run_cli: Cli, whole: Path, sd1_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a pipeline: the teacher's own, say."""
    before = sorted(path.name for path in sd1_folder.rglob("*"))
    assert run_cli("export", f"run={whole}", f"out={sd1_folder}", FAST) == 2
    assert "was not written by bksdm" in capsys.readouterr().err
    assert sorted(path.name for path in sd1_folder.rglob("*")) == before
