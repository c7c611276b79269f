"""Recover on the command line: a pruned model is the student, and a student can be pruned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bksdm.cli.main import main
from bksdm.models.cost import text_encoder_macs, vae_encoder_macs
from bksdm.models.teacher import weights_hash
from bksdm.surgery.plan import BlockPlan
from bksdm.surgery.sparse.plan import SparsityPlan, check_masks
from bksdm.training import run as training_run
from bksdm.training.beginning import find_ancestor
from bksdm.training.checkpoint import load_student, read_checkpoint
from bksdm.training.folder import RunFolder
from tests.conftest import tiny_run_arguments
from tests.pruned import prune
from tests.training.runs import interrupted, same_weights

Cli = Callable[..., int]
BASE_OF_ITSELF = BlockPlan(down=((0,),) * 4, mid=False)  # nothing of a small student goes


def lost(unet: UNet2DConditionModel, plan: SparsityPlan, pruned: Path) -> int:
    """Weights that were zero in the pruned model, and are not any more."""
    part = plan.of("unet")
    assert part is not None
    weights, dense = unet.state_dict(), loaded(pruned).unet.state_dict()
    names = [tensor.name for tensor in part.tensors]
    return sum(int(weights[name][dense[name] == 0].count_nonzero()) for name in names)


def loaded(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def told(folder: Path) -> SparsityPlan:
    return SparsityPlan.from_json((folder / "sparsity.json").read_text())


@pytest.fixture(scope="module")
def pruned(sd1_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned teacher: text encoder and U-Net."""
    folder = tmp_path_factory.mktemp("pruned") / "teacher"
    prune(sd1_folder, folder)
    return folder


@pytest.fixture(scope="module")
def arguments(sd1_folder: Path, shards: Path, pruned: Path) -> list[str]:
    return [
        *tiny_run_arguments(sd1_folder, shards),
        f"method.init={pruned}",
        "student=whole",
        "optimizer.lr=1e-3",
        "optimizer.weight_decay=0.1",
        "method.gradient_clip=0.1",
    ]


@pytest.fixture(scope="module")
def recovered(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of two micro-batches, with a copy of each step's checkpoint."""
    folder = tmp_path_factory.mktemp("recovered")
    more = ["samples.every_n_steps=4", "samples.sampling.steps=1", "samples.prompts=[a circle]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        more += ["name=whole", "checkpoint.keep_every_n_steps=1"]
        patch.setattr("sys.argv", ["bksdm", *arguments, *more])
        assert main() == 0
    return folder / "runs" / "whole"


def test_zeros_are_zero_in_every_checkpoint_and_in_the_export(
    recovered: Path, pruned: Path
) -> None:
    plan, before = told(pruned), loaded(pruned)
    for step in (1, 4):
        for weights in ("raw", "ema"):
            path = RunFolder(recovered).checkpoints / f"step_{step}.ckpt"
            student = load_student(path, weights=weights)  # type: ignore[arg-type]
            assert lost(student, plan, pruned) == 0
            assert weights_hash(student) != weights_hash(before.unet)
    exported = loaded(recovered / "student")
    assert weights_hash(exported.text_encoder) == weights_hash(before.text_encoder)
    for part in told(recovered / "student").components:
        network = getattr(exported, part.component)
        check_masks(part, network.state_dict().items())
        assert part.zeros == plan.of(part.component).zeros  # type: ignore[union-attr]


def test_a_checkpoint_says_what_the_student_began_as_and_holds_no_text_encoder(
    recovered: Path, pruned: Path
) -> None:
    content = read_checkpoint(RunFolder(recovered).checkpoint)
    began = content["bksdm"]["init"]
    assert began["path"] == str(pruned)
    assert began["unet"] == weights_hash(loaded(pruned).unet)
    assert began["text_encoder"] == weights_hash(loaded(pruned).text_encoder)
    assert set(content["state_dict"]) == {f"student.{n}" for n in loaded(pruned).unet.state_dict()}


def test_a_resume_in_the_middle_is_the_same_run(
    run_cli: Cli, arguments: list[str], recovered: Path, tmp_path: Path
) -> None:
    resumed = interrupted(recovered, tmp_path / "runs" / "resumed", step=2)
    shutil.rmtree(resumed.student)
    assert run_cli(*arguments, "name=resumed") == 0
    assert same_weights(recovered, resumed.path)


def test_another_beginning_is_refused(
    run_cli: Cli,
    arguments: list[str],
    recovered: Path,
    pruned: Path,
    sd1_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    resumed = interrupted(recovered, tmp_path / "runs" / "resumed", step=2)
    assert run_cli(*arguments, "name=resumed", "method.init=teacher") == 2
    assert "other settings: method.init" in capsys.readouterr().err
    config = resumed.config.read_text().replace(str(pruned), "other")
    resumed.config.write_text(config)
    shutil.copytree(sd1_folder, tmp_path / "other")  # where it lies would make no difference
    assert run_cli(*arguments, "name=resumed", "method.init=other") == 2
    line = capsys.readouterr().err.strip()
    assert "is of another init" in line
    assert "\n" not in line


def test_without_the_callback_zeros_are_lost(
    run_cli: Cli,
    arguments: list[str],
    pruned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_run, "held_zeros", lambda *_: [])
    assert run_cli(*arguments, "name=lost", "trainer.max_steps=1") == 0
    student = load_student(RunFolder(tmp_path / "runs" / "lost").checkpoint, weights="raw")
    assert lost(student, told(pruned), pruned) > 1000


def test_export_of_a_run_needs_the_text_encoder_that_it_was_trained_on(
    run_cli: Cli, recovered: Path, pruned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["export", f"run={recovered}", "export.fresh_process=false"]
    assert run_cli(*run, "weights=raw", "out=raw") == 0
    exported = loaded(Path("raw"))
    assert weights_hash(exported.text_encoder) == weights_hash(loaded(pruned).text_encoder)
    for part in told(Path("raw")).components:
        check_masks(part, getattr(exported, part.component).state_dict().items())
    moved = pruned.rename(pruned.with_name("moved"))
    try:
        capsys.readouterr()
        assert run_cli(*run, "out=again") == 2
    finally:
        moved.rename(pruned)
    line = capsys.readouterr().err.strip()
    assert f"method.init={pruned}" in line
    assert "\n" not in line


def test_cut_then_prune_then_recover(
    run_cli: Cli, tiny_run: list[str], finished: Path, tmp_path: Path
) -> None:
    plan = prune(finished / "student", tmp_path / "pruned", ["unet"])
    own = ["method.init=pruned", "name=again", "trainer.max_steps=2", "optimizer.lr=1e-3"]
    assert run_cli(*tiny_run, *own) == 0
    student = tmp_path / "runs" / "again" / "student"
    assert lost(loaded(student).unet, plan, tmp_path / "pruned") == 0
    assert json.loads((student / "bksdm.json").read_text())["plan"]["mid"] is False
    text = loaded(student).text_encoder
    assert weights_hash(text) == weights_hash(loaded(finished / "student").text_encoder)


def test_prune_then_cut_then_recover(
    run_cli: Cli, arguments: list[str], pruned: Path, tmp_path: Path
) -> None:
    """What was cut away is in no plan any more."""
    assert run_cli(*arguments, "student=small", "name=cut", "trainer.max_steps=2") == 0
    student = tmp_path / "runs" / "cut" / "student"
    plan, exported = told(student), loaded(student)
    part, whole = plan.of("unet"), told(pruned).of("unet")
    assert part is not None
    assert whole is not None
    assert 0 < len(part.tensors) < len(whole.tensors)
    assert all(tensor.zeros == tensor.size // 2 for tensor in part.tensors)
    check_masks(part, exported.unet.state_dict().items())
    # And a run's student can be the beginning of another, by the name of the run.
    again = find_ancestor("runs/cut").student(exported.unet.config, BASE_OF_ITSELF)
    assert weights_hash(again) == weights_hash(exported.unet)


def test_check_counts_masks_and_the_second_text_encoder(
    run_cli: Cli, arguments: list[str], pruned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["check", *arguments[1:], "shards=index", "format=json", "rehearsal=1"]
    assert run_cli(*check) == 0
    told_of = json.loads(capsys.readouterr().out)
    memory, flops, own = told_of["memory"], told_of["networks"]["flops"], loaded(pruned)
    part = told(pruned).of("unet")
    assert part is not None
    assert memory["weights"] == memory["gradients"] + part.prunable  # a byte each
    weights = [each.numel() for each in (*own.vae.parameters(), *own.text_encoder.parameters())]
    text = [each.numel() for each in own.text_encoder.parameters()]
    assert memory["encoders"] == pytest.approx(4 * sum(weights + text), rel=0.02)  # and buffers
    extra = 2 * text_encoder_macs(own.text_encoder.config.to_dict())
    extra += vae_encoder_macs(dict(own.vae.config), 16)
    assert flops["computed"] - flops["useful"] == 2 * extra
    assert told_of["paces"]


@pytest.mark.parametrize("verb", ["train", "check"])
def test_bad_beginnings_are_told(
    run_cli: Cli,
    arguments: list[str],
    pruned: Path,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(pruned, tmp_path / "wrong")
    plan = json.loads((tmp_path / "wrong" / "sparsity.json").read_text())
    plan["components"][0]["tensors"][0]["mask"] = "0" * 16
    (tmp_path / "wrong" / "sparsity.json").write_text(json.dumps(plan))
    (tmp_path / "partly").mkdir()
    shutil.copytree(pruned / "unet", tmp_path / "partly" / "unet")
    cases = {
        "nonsense": "method.init=nonsense: nonsense is not there; expected teacher or random",
        "empty": "no readable unet/config.json",
        "partly": "method.init=partly: model partly",
        "wrong": "has other zeros than its plan says",
        finished: "its U-Net has another shape (1 layers",  # a small student, for student=whole
    }
    own: list[str] = []
    if verb == "check":
        own = ["shards=none", "data.batch_size=x"]  # nothing else is worth looking at
    for init, words in cases.items():
        assert run_cli(verb, *arguments[1:], f"method.init={init}", *own) == 2, init
        lines = capsys.readouterr().err.strip().splitlines()
        assert sum(words in line for line in lines) == 1
        assert len(lines) == 1 or verb == "check"
    assert not (tmp_path / "runs").exists()
