"""`bksdm push` to a local Hub over real HTTP."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard

from bksdm.export import hub as export_hub
from bksdm.export.pipeline import load_pipeline
from bksdm.training.folder import RunFolder
from bksdm.training.publish import staged
from bksdm.training.run_card import CardWishes
from tests.hub.card import card_problems
from tests.hub.server import Fault, Hub

Cli = Callable[..., int]
REPO = "user/tiny"


@pytest.fixture
def push(run_cli: Cli, whole: Path) -> Cli:
    """`bksdm push` of a finished run, whose teacher says no licence."""

    def run(*arguments: object) -> int:
        return run_cli("push", f"run={whole}", f"repo={REPO}", "license=mit", *arguments)

    return run


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.setattr(export_hub, "LONGEST_WAIT", 0)
    del waits  # the client does not wait, either


def test_a_dry_run_lists_everything_and_sends_nothing(
    push: Cli, hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push("dry_run=true") == 0
    told = capsys.readouterr().out
    for name in ("README.md", "checkpoints/last.ckpt", "unet/diffusion_pytorch_model.safetensors"):
        assert name in told
    assert "nothing was sent" in told
    assert not hub.requests
    assert card_problems((whole / "README.md").read_text()) == ([], [])
    assert not (whole / ".push").exists()


def test_what_was_pushed_comes_back_by_from_pretrained(push: Cli, hub: Hub, whole: Path) -> None:
    assert push() == 0
    assert hub.repos[REPO].private
    back = StableDiffusionPipeline.from_pretrained(REPO, dtype=torch.float32, safety_checker=None)
    mine = load_pipeline(whole / "student")
    for part in ("unet", "vae", "text_encoder"):
        theirs = getattr(back, part).state_dict()
        for name, tensor in getattr(mine, part).state_dict().items():
            assert torch.equal(theirs[name], tensor), name
    files = hub.files(REPO)
    assert files["checkpoints/last.ckpt"] == (whole / "checkpoints" / "last.ckpt").read_bytes()
    assert {"config.yaml", "metrics.csv", "starts.jsonl", "bksdm.json", "README.md"} <= files.keys()
    assert hub.asked("POST", "validate-yaml")


def test_a_second_push_sends_no_large_file_again(push: Cli, hub: Hub) -> None:
    assert push() == 0
    sent = hub.uploaded_bytes
    assert push() == 0
    assert hub.uploaded_bytes == sent


def test_without_the_checkpoint_none_goes(push: Cli, hub: Hub) -> None:
    assert push("checkpoint=false") == 0
    assert not [name for name in hub.files(REPO) if name.endswith(".ckpt")]
    assert b"resume=hf://" not in hub.files(REPO)["README.md"]


def test_branch_and_tag(push: Cli, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert push("revision=trial", "tag=v1") == 0
    assert "model_index.json" in hub.files(REPO, "trial")
    assert hub.files(REPO, "v1") == hub.files(REPO, "trial")
    assert "model_index.json" not in hub.files(REPO)
    assert 'revision="v1"' in hub.files(REPO, "v1")["README.md"].decode()
    capsys.readouterr()
    assert push("revision=trial", "tag=v1") == 2
    assert "tag=v1: repo=user/tiny has one of that name" in capsys.readouterr().err
    assert push("revision=2", "tag=3.0") == 0  # YAML takes them for numbers
    assert hub.files(REPO, "3.0") == hub.files(REPO, "2")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/commit/", 500),
        Fault("POST", "/commit/", 429, retry_after=0),
        Fault("POST", "/commit/", 409),
        Fault("POST", "/commit/", 412),
        Fault("POST", "/commit/", "cut"),
        Fault("POST", "/commit/", "lost"),
        Fault("POST", "/repos/create", 503),
        Fault("PUT", "/lfs/", 500),
        Fault("PUT", "/lfs/", "cut"),
    ],
    ids=lambda fault: f"{fault.path.strip('/')}-{fault.status}",
)
def test_what_passes_is_tried_again(push: Cli, hub: Hub, fault: Fault) -> None:
    hub.faults.append(fault)
    assert push() == 0
    assert len(hub.faults) == 0
    assert "unet/diffusion_pytorch_model.safetensors" in hub.files(REPO)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("POST", "/preupload/", 401), "HF_TOKEN"),
        (Fault("POST", "/repos/create", 403), "write"),
        (Fault("POST", "/preupload/", 403), "write access"),
        (Fault("POST", "/commit/", 409, times=99), "the same command goes on"),
        (Fault("POST", "/commit/", 429, times=99, retry_after=0), "wait some minutes"),
        (Fault("POST", "/commit/", 500, times=99), "the Hub answered 500"),
        (Fault("POST", "/commit/", "cut", times=99), "cannot be reached"),
        (Fault("PUT", "/lfs/", "cut", times=999), "cannot be reached"),
        (Fault("PUT", "/lfs/", 500, times=999), "the Hub answered 500"),
    ],
    ids=lambda value: f"{value.path.strip('/')}-{value.status}" if isinstance(value, Fault) else "",
)
def test_what_stays_is_one_line_and_the_same_command_goes_on(
    push: Cli, hub: Hub, fault: Fault, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(fault)
    assert push() == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith(f"bksdm push: repo={REPO}: ")
    assert words in told
    assert len(told.splitlines()) == 1
    while len(hub.faults):
        hub.faults.take(fault.method, fault.path)
    assert push() == 0
    assert "unet/diffusion_pytorch_model.safetensors" in hub.files(REPO)


def test_nobody_listens(
    push: Cli, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert push() == 2
    assert "the Hub cannot be reached" in capsys.readouterr().err


def test_offline_is_said(
    push: Cli, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert push() == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_a_public_repository_is_not_written_to_by_default(
    push: Cli, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push("private=false", "checkpoint=false") == 0
    before = hub.files(REPO)
    assert push() == 2
    assert "is public" in capsys.readouterr().err
    assert hub.files(REPO) == before


def test_no_token_gets_anywhere_but_to_the_hub(
    push: Cli, hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push() == 0
    secret = hub.token.encode()
    written = [path.read_bytes() for path in whole.rglob("*") if path.is_file()]
    assert not any(secret in content for content in [*written, *hub.files(REPO).values()])
    captured = capsys.readouterr()
    assert hub.token not in captured.out + captured.err
    assert not [seen for seen in hub.seen if seen.path.startswith("/lfs/") and seen.authorization]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("note: hf_abcdefghijklmnopqrstuvwxyz0123", "a Hub token"),
        ("shards: https://me:secret@host/a.tar", "a password in an address"),
        ("shards: https://host/a.tar?X-Amz-Signature=0a1b", "a signed address"),
        ("shards: 'pipe:curl -H \"Authorization: Bearer abc\" host'", "an authorization header"),
        ('shards: "curl -H Authorization:\n      Bearer abc host"', "an authorization header"),
        ("shards: https://me:se:cret@host/a.tar", "a password in an address"),
        ("logger: {api_key: 0123456789abcdef}", "a key or password"),
        ("shards: AWS_SECRET_ACCESS_KEY=0123456789abcdef x", "a key or password"),
        (
            "shards: https://host/a.tar?sv=1&sig=abcdefghijklmnopqrstuvwxyz%3D",
            "a signature of Azure",
        ),
    ],
)
def test_credentials_among_the_files_are_refused(
    push: Cli, hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str], text: str, what: str
) -> None:
    with (whole / "config.yaml").open("a") as file:
        file.write(f"\n{text}\n")
    assert push() == 2
    told = capsys.readouterr().err
    assert what in told
    assert "config.yaml" in told
    assert not hub.requests


def test_the_token_in_use_is_found_in_a_checkpoint(
    push: Cli, hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = whole / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["bksdm"]["versions"]["stray"] = hub.token
    torch.save(content, path)
    assert push() == 2
    assert "the Hub token in use" in capsys.readouterr().err
    assert not hub.requests


def test_the_card_says_what_was_removed_and_how_it_was_made(push: Cli, hub: Hub) -> None:
    assert push("datasets=[laion/aesthetic]") == 0
    text = hub.files(REPO)["README.md"].decode()
    card = ModelCard(text)
    assert card.data.license == "mit"
    assert card.data.datasets == ["laion/aesthetic"]
    assert card.data.pipeline_tag == "text-to-image"
    for words in (
        "[# RA] [. RA]",  # the drawing
        "`mid_block`",
        "U-Net parameters, M",
        "bksdm train teacher=",
        "4 optimiser steps",
        "the exponential average of training (EMA)",
        f'from_pretrained("{REPO}")',
        "Intended use and limits",
    ):
        assert words in text, words


def measured() -> dict[str, object]:
    """A model of a results file."""
    score = {
        **{"name": "all right", "value": 0.875, "better": "higher", "n": 512, "low": 0.84},
        **{"high": 0.9, "interval": "Wilson", "deviation": None, "percent": True, "details": {}},
    }
    return {
        **{
            "name": "student",
            "weights": "0",
            "protocol": {"name": "shapes", "decide": "all right"},
        },
        **{"scores": [score | {"items": None}], "against": [], "cost": None, "speed": None},
        **{"unet": {}, "plan": None, "environment": {}, "images": None, "suffix": ".png"},
        "curves": {},
    }


def test_the_card_has_the_results_with_intervals(push: Cli, hub: Hub, whole: Path) -> None:
    (whole / "results.json").write_text(json.dumps({"format": 1, "models": [measured()]}))
    assert push() == 0
    text = hub.files(REPO)["README.md"].decode()
    assert "| all right, % | 87.5 [84.0, 90.0] | 512 |" in text
    [result] = ModelCard(text).data.eval_results
    assert (result.metric_name, result.metric_value, result.dataset_name) == (
        "all right",
        87.5,
        "shapes",
    )


def test_a_teacher_without_a_licence_wants_one(
    run_cli: Cli, hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("push", f"run={whole}", f"repo={REPO}") == 2
    assert "license=" in capsys.readouterr().err
    assert not hub.requests


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["repo=tiny"], "expected owner/name"),
        (["run=nowhere"], "expected a run's folder"),
        (["dry_run=maybe"], "dry_run"),
        (["run=hf://user/tiny"], "expected a run that lies here"),
        (["repo=hf://tiny"], "expected owner/name"),
        (["results=[none.json]"], "none.json"),
    ],
)
def test_bad_settings(
    push: Cli, hub: Hub, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(*arguments) == 2
    assert words in capsys.readouterr().err
    assert not hub.requests


def test_a_run_without_checkpoint_has_nothing_to_push(
    push: Cli, hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(whole / "checkpoints")
    assert push() == 2
    assert "nothing is trained yet" in capsys.readouterr().err
    assert not hub.requests


def test_two_pushes_of_one_run_do_not_meet(
    push: Cli, hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with staged(RunFolder(whole), CardWishes(repository=REPO, license="mit")) as stage:
        assert push() == 2
        assert "is being pushed by another process" in capsys.readouterr().err
        assert "README.md" in stage.files
    assert not hub.requests
    assert push() == 0


def test_what_is_staged_stays_while_the_run_goes_on(whole: Path) -> None:
    folder = RunFolder(whole)
    before = folder.checkpoint.read_bytes(), folder.metrics.read_bytes()
    with staged(folder, CardWishes(repository=REPO, license="mit")) as stage:
        new = folder.checkpoint.with_suffix(".tmp")
        new.write_bytes(b"the next checkpoint")
        new.replace(folder.checkpoint)
        with folder.metrics.open("a") as file:
            file.write("9,9\n")
        kept = stage.files["checkpoints/last.ckpt"]
        assert (kept.read_bytes(), stage.files["metrics.csv"].read_bytes()) == before


def test_a_checkpoint_behind_a_link_goes_as_a_file(push: Cli, hub: Hub, whole: Path) -> None:
    path = whole / "checkpoints" / "last.ckpt"
    elsewhere = whole.parent / "scratch.ckpt"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert push() == 0
    assert hub.files(REPO)["checkpoints/last.ckpt"] == elsewhere.read_bytes()


def test_what_an_earlier_push_left_does_not_mislead(push: Cli, hub: Hub, whole: Path) -> None:
    half = whole / "student" / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(whole / "student" / "unet" / "diffusion_pytorch_model.safetensors", half)
    assert push() == 0
    assert f"unet/{half.name}" in hub.files(REPO)
    half.unlink()
    assert push("checkpoint=false") == 0
    files = hub.files(REPO)
    assert f"unet/{half.name}" not in files
    assert "checkpoints/last.ckpt" not in files
    assert "unet/diffusion_pytorch_model.safetensors" in files


def test_another_licence_than_the_teachers_is_refused(
    push: Cli, hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load((whole / "config.yaml").read_text())
    settings["teacher"]["license"] = "openrail++"
    (whole / "config.yaml").write_text(yaml.safe_dump(settings))
    assert push() == 2
    assert "has openrail++, which a student inherits" in capsys.readouterr().err
    assert not hub.requests


def test_results_of_another_model_are_refused(
    push: Cli, hub: Hub, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"format": 1, "models": [measured()]}))
    assert push(f"results=[{file}]") == 2
    assert "is of other weights" in capsys.readouterr().err
    assert not hub.requests


def test_data_sets_without_an_owner_are_refused_before_anything_is_sent(
    push: Cli, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push("datasets=['a b']") == 2
    assert "datasets=" in capsys.readouterr().err
    assert not hub.requests


def test_a_run_that_went_on_says_both_steps(run_cli: Cli, whole: Path) -> None:
    path = whole / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["global_step"] = 9
    torch.save(content, path)
    assert run_cli("push", f"run={whole}", f"repo={REPO}", "license=mit", "dry_run=true") == 0
    card = (whole / "README.md").read_text()
    assert "after 4 steps. The run has gone on since: its checkpoint is of step 9." in card
