"""Runs, students and teachers that come from a local Hub over real HTTP."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi

from bksdm.export.pipeline import load_pipeline
from tests.hub.server import Hub
from tests.training.runs import same_weights

Cli = Callable[..., int]
REPO = "user/tiny"


@pytest.fixture
def pushed(run_cli: Cli, hub: Hub, whole: Path) -> Path:
    """A finished run of four steps, which is on the Hub as v1; returns where it lies here."""
    del hub
    assert run_cli("push", f"run={whole}", f"repo={REPO}", "license=mit", "tag=v1") == 0
    return whole


def test_a_run_goes_on_from_the_hub_as_it_would_have_here(
    run_cli: Cli, pushed: Path, tiny_run: list[str], tmp_path: Path
) -> None:
    shutil.rmtree(pushed)
    assert run_cli("train", f"resume=hf://{REPO}", "trainer.max_steps=6", "runs_dir=back") == 0
    assert (
        run_cli(*tiny_run, "trainer.max_steps=6", "name=here", "checkpoint.keep_every_n_steps=1")
        == 0
    )
    assert same_weights(tmp_path / "back" / "whole", tmp_path / "runs" / "here")
    settings = yaml.safe_load((tmp_path / "back" / "whole" / "config.yaml").read_text())
    assert settings["trainer"]["max_steps"] == 6
    rows = (tmp_path / "back" / "whole" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]].count("1") >= 1  # the first steps came along


def test_a_run_that_is_here_is_not_replaced(
    run_cli: Cli, pushed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = pushed / "checkpoints" / "last.ckpt"
    before = kept.stat().st_mtime_ns
    assert run_cli("train", f"resume=hf://{REPO}@v1") == 0
    told = capsys.readouterr().out
    assert "going on from it, not from hf://user/tiny@" in told
    assert kept.stat().st_mtime_ns == before


def test_a_requeued_job_starts_again_without_the_hub(
    run_cli: Cli, pushed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(pushed)
    again = ["train", f"resume=hf://{REPO}@v1", "runs_dir=back", "name=mine"]
    assert run_cli(*again) == 0
    shutil.rmtree(Path("hf-home"), ignore_errors=True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    capsys.readouterr()
    assert run_cli(*again) == 0
    assert "is finished: 4 steps" in capsys.readouterr().out


def test_check_takes_what_is_resumed(
    run_cli: Cli, pushed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del pushed
    arguments = ["rehearsal=0", "shards=none", "name=new", "format=json"]
    run_cli("check", f"resume=hf://{REPO}", *arguments)
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == []
    assert told["networks"]["teacher"]["parameters"] < 1e6  # the tiny one, not the default


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume=runs/whole"], "expected hf://owner/name"),
        (["resume=hf://user/other"], "no such repository"),
        (["resume=hf://user/tiny@v9"], "no revision 'v9'"),
        (["resume=hf://user"], "expected owner/name"),
        (["resume=hf://user/tiny", "student=tiny"], "student=: resume="),
        (["resume=hf://user/tiny", "data=shards"], "data=: resume="),
        (["resume=hf://user/tiny", "optimizer.lr=1", "name=new"], "optimizer.lr"),
    ],
)
def test_refusals_leave_nothing_behind(
    run_cli: Cli,
    pushed: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del pushed
    assert run_cli("train", "runs_dir=back", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not Path("back").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": {"_target_": "os.system", "command": "touch owned"}}, "calls os.system"),
        ({"trainer": {"x": "${oc.create:{_target_: shutil.copyfile}}"}}, "would be resolved"),
        ({"data": {"shards": ["${p}e:touch owned"]}}, "would be resolved"),
        ({"samples": {"prompts": ["${oc.env:HOME}"]}}, "would be resolved"),
        ({"data": {"shards": "pipe:touch owned", "cache": {"allow_pipe": True}}}, "allow_pipe"),
    ],
)
def test_a_strangers_settings_run_nothing(
    run_cli: Cli,
    pushed: Path,
    hub: Hub,
    change: dict[str, dict[str, object]],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del hub
    settings = yaml.safe_load((pushed / "config.yaml").read_text())
    for group, values in change.items():
        settings[group] = (settings[group] or {}) | values
    text = yaml.safe_dump(settings).encode()
    HfApi().upload_file(path_or_fileobj=text, path_in_repo="config.yaml", repo_id=REPO)
    assert run_cli("train", f"resume=hf://{REPO}", "runs_dir=back", "trainer.max_steps=6") == 2
    assert words in capsys.readouterr().err
    assert not Path("owned").exists()


def test_settings_of_another_shape_are_refused(
    run_cli: Cli, pushed: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    settings = yaml.safe_load((pushed / "config.yaml").read_text()) | {"optimizer": 3}
    text = yaml.safe_dump(settings).encode()
    HfApi().upload_file(path_or_fileobj=text, path_in_repo="config.yaml", repo_id=REPO)
    assert run_cli("train", f"resume=hf://{REPO}", "runs_dir=back") == 2
    assert "its optimizer is no group of settings" in capsys.readouterr().err
    assert not Path("back").exists()


@pytest.mark.parametrize("name", ["../elsewhere", ".config/x", "/tmp/x", ""])
def test_a_stranger_does_not_say_where_a_run_lies(
    run_cli: Cli, pushed: Path, hub: Hub, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    settings = yaml.safe_load((pushed / "config.yaml").read_text())
    settings |= {"name": name, "runs_dir": "/nowhere/alice"}
    text = yaml.safe_dump(settings).encode()
    HfApi().upload_file(path_or_fileobj=text, path_in_repo="config.yaml", repo_id=REPO)
    assert run_cli("train", f"resume=hf://{REPO}") == 2
    assert "give name=" in capsys.readouterr().err
    assert run_cli("train", f"resume=hf://{REPO}", "runs_dir=back", "name=mine") == 0
    assert (Path("back") / "mine" / "checkpoints" / "last.ckpt").exists()
    assert not Path("/nowhere").exists()


def test_who_is_told_of_a_run_is_said_here(run_cli: Cli, pushed: Path, hub: Hub) -> None:
    settings = yaml.safe_load((pushed / "config.yaml").read_text())
    settings["callbacks"] = {"hub": {"_target_": "bksdm.training.hub.HubSettings", "repo": REPO}}
    text = yaml.safe_dump(settings).encode()
    HfApi().upload_file(path_or_fileobj=text, path_in_repo="config.yaml", repo_id=REPO)
    commits = len(hub.requests)
    assert run_cli("train", f"resume=hf://{REPO}", "runs_dir=back") == 0
    assert not [each for each in hub.requests[commits:] if each.startswith("POST")]
    back = yaml.safe_load((Path("back") / "whole" / "config.yaml").read_text())
    assert back["callbacks"]["hub"] is None


def test_a_group_brings_only_what_may_change(run_cli: Cli, pushed: Path) -> None:
    """trainer=cpu composes the defaults' 1,000 steps, too: the run keeps its own."""
    shutil.rmtree(pushed)
    assert run_cli("train", f"resume=hf://{REPO}", "runs_dir=back", "trainer=cpu", "name=mine") == 0
    settings = yaml.safe_load((Path("back") / "mine" / "config.yaml").read_text())
    assert settings["trainer"]["max_steps"] == 4
    assert settings["trainer"]["accelerator"] == "cpu"


def test_a_folder_with_something_else_is_left_alone(
    run_cli: Cli, pushed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del pushed
    Path("back/whole").mkdir(parents=True)
    (Path("back/whole") / "mine.txt").write_text("precious")
    assert run_cli("train", f"resume=hf://{REPO}", "runs_dir=back") == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in Path("back/whole").iterdir()] == ["mine.txt"]


def test_without_its_checkpoint_a_run_cannot_go_on(
    run_cli: Cli, whole: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    arguments = [f"run={whole}", f"repo={REPO}", "license=mit", "checkpoint=false"]
    assert run_cli("push", *arguments) == 0
    assert run_cli("train", f"resume=hf://{REPO}", "runs_dir=back") == 2
    assert "no checkpoints/last.ckpt" in capsys.readouterr().err


def test_export_of_a_run_on_the_hub(run_cli: Cli, pushed: Path, tmp_path: Path) -> None:
    fast = "export.fresh_process=false"
    assert run_cli("export", f"run=hf://{REPO}@v1", f"out={tmp_path / 'out'}", fast) == 0
    mine = load_pipeline(pushed / "student").unet.state_dict()
    theirs = load_pipeline(tmp_path / "out").unet.state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in mine.items())


def test_export_of_a_run_on_the_hub_wants_a_folder(
    run_cli: Cli, pushed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del pushed
    assert run_cli("export", f"run=hf://{REPO}") == 2
    assert "out= is missing" in capsys.readouterr().err


def test_a_teacher_from_the_hub_at_a_revision(
    run_cli: Cli, hub: Hub, sd1_folder: Path, tiny_run: list[str]
) -> None:
    del hub
    api = HfApi()
    api.create_repo("user/teacher", private=True)
    api.upload_folder(repo_id="user/teacher", folder_path=sd1_folder)
    api.create_tag("user/teacher", tag="v1")
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="unet/config.json", repo_id="user/teacher")
    arguments = [each for each in tiny_run[1:] if not each.startswith("teacher")]
    both = [*arguments, "trainer.max_steps=1", "trainer.validate_every_n_steps=1"]
    assert run_cli("train", "teacher=hf://user/teacher@v1", *both) == 0
    settings = yaml.safe_load(Path("runs/teacher-small/config.yaml").read_text())
    assert settings["teacher"]["path"] == "user/teacher"
    assert settings["teacher"]["revision"] == "v1"


def test_generate_from_the_hub_takes_its_guidance(
    run_cli: Cli, pushed: Path, tmp_path: Path
) -> None:
    del pushed
    assert run_cli("generate", f"model=hf://{REPO}@v1", "prompt=a dog", "steps=1", "out=drawn") == 0
    assert list((tmp_path / "drawn").glob("*.png"))
