"""A run that goes to a local Hub while it trains: callbacks=hub."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.training.folder import RunFolder
from bksdm.training.hub import PUSHED, HubSettings, HubUploads
from tests.hub.server import Hub
from tests.training.runs import same_weights

Cli = Callable[..., int]
REPO = "user/tiny"
HUB = ["callbacks=hub", f"callbacks.hub.repo={REPO}", "callbacks.hub.license=mit"]


def settings(**given: object) -> HubSettings:
    values = {"repo": REPO, "every_n_steps": 2, "license": "mit", **given}
    return HubSettings(**values)  # type: ignore[arg-type]


class Pushes:
    """Stands for the processes of pushes: each runs a line of Python, the last one from then on."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.count = lines, 0

    def __call__(self) -> "subprocess.Popen[str]":
        line = self.lines[min(self.count, len(self.lines) - 1)]
        self.count += 1
        command = [sys.executable, "-S", "-c", line]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def arrived(step: int) -> str:
    return f"print({PUSHED.format(step=step, url='u', commit='c')!r})"


FAILED = "import sys; sys.exit('bksdm push: repo=user/tiny: the Hub answered 500')"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_training_ends_on_the_hub_and_computes_the_same(
    run_cli: Cli, hub: Hub, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, *HUB, "callbacks.hub.every_n_steps=2", "name=pushed") == 0
    assert f"hub: step 4 is in hf://{REPO}" in capsys.readouterr().out
    files = hub.files(REPO)
    assert {"model_index.json", "checkpoints/last.ckpt", "README.md"} <= files.keys()
    assert hub.token not in Path("runs/pushed/config.yaml").read_text()
    assert run_cli(*tiny_run, "name=alone", "checkpoint.keep_every_n_steps=1") == 0
    assert same_weights(Path("runs/pushed"), Path("runs/alone"))


def test_a_training_does_not_need_the_hub(
    run_cli: Cli,
    tiny_run: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_any"}
    for name, value in away.items():
        monkeypatch.setenv(name, value)
    assert run_cli(*tiny_run, *HUB) == 0
    told = capsys.readouterr().out
    assert "hub: of step 4, nothing has arrived" in told
    assert "the Hub cannot be reached" in told
    assert f"bksdm push run=runs/tiny-small repo={REPO}" in told
    assert Path("runs/tiny-small/student/model_index.json").exists()


def test_a_push_that_hangs_delays_no_step_and_is_ended(run: RunFolder) -> None:
    uploads = HubUploads(
        Pushes("import time; time.sleep(60)"), settings(patience_minutes=0.005), run
    )
    begin = time.monotonic()
    for step in range(1, 5):
        uploads.saved(step)
    assert time.monotonic() - begin < 1
    told = uploads.finish(4)
    assert time.monotonic() - begin < 10
    assert "nothing has arrived" in told
    assert "still on its way" in told
    uploads.stop()
    assert uploads._process is not None
    assert uploads._process.wait(10) < 0


def test_what_is_asked_for_meanwhile_is_one_push(run: RunFolder, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    pushes = Pushes(wait + arrived(1), arrived(4))
    uploads = HubUploads(pushes, settings(every_n_steps=1), run)
    uploads.saved(1)
    while not pushes.count:
        time.sleep(0.01)
    for step in (2, 3, 4):
        uploads.saved(step)
    uploads._ask(4)
    gate.touch()
    while not uploads._idle():
        time.sleep(0.01)
    assert uploads.told(4) == f"hub: step 4 is in hf://{REPO}"
    assert pushes.count == 2


def test_a_failed_push_is_made_up_by_the_next(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    uploads = HubUploads(Pushes(FAILED, arrived(4)), settings(), run)
    uploads.saved(2)
    while not uploads._idle() or uploads._problem is None:
        time.sleep(0.01)
    assert "the Hub answered 500" in uploads.told(2)
    assert "the run goes on" in caplog.text
    assert uploads.finish(4) == f"hub: step 4 is in hf://{REPO}"


def test_what_never_arrives_is_said_with_the_command_that_sends_it(run: RunFolder) -> None:
    uploads = HubUploads(Pushes(arrived(2), FAILED), settings(revision="trial"), run)
    uploads.saved(2)
    while uploads._arrived is None:
        time.sleep(0.01)
    told = uploads.finish(4)
    assert "of step 4, step 2 has arrived" in told
    assert "the Hub answered 500" in told
    assert f"bksdm push run={run.path} repo={REPO} revision=trial" in told


def test_no_process_can_be_started(run: RunFolder) -> None:
    def fail() -> "subprocess.Popen[str]":
        raise OSError(12, "Cannot allocate memory")

    assert "Cannot allocate memory" in HubUploads(fail, settings(), run).finish(4)


def test_pushes_follow_the_interval(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def ask(self: HubUploads, step: int) -> None:
        self._asked = step
        asked.append(step)

    monkeypatch.setattr(HubUploads, "_ask", ask)
    uploads = HubUploads(Pushes(arrived(1)), settings(every_n_steps=10), run)
    for step in (4, 8, 12, 16, 20, 24):
        uploads.saved(step)
    assert asked == [12, 20]


@pytest.mark.parametrize("verb", ["train", "check"])
@pytest.mark.parametrize(
    ("token", "arguments", "words"),
    [
        ("hf_wrong", [], "does not take this token"),
        ("", [], "wants a token"),
        (None, ["callbacks.hub.repo=stranger/x"], "expected a repository of theirs"),
        (None, ["callbacks.hub.license=null"], "callbacks.hub.license="),
    ],
    ids=["wrong", "none", "stranger", "licence"],
)
def test_what_the_hub_would_refuse_is_said_before_anything_is_trained(
    run_cli: Cli,
    hub: Hub,
    tiny_run: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    token: str | None,
    arguments: list[str],
    words: str,
) -> None:
    del hub
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    extra = ["rehearsal=0", "shards=none"] if verb == "check" else []
    assert run_cli(verb, *tiny_run[1:], *HUB, *arguments, *extra) == 2
    assert words in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("callbacks.hub.repo=tiny", "expected owner/name"),
        ("callbacks.hub.repo=null", "callbacks.hub.repo= is missing"),
        ("callbacks.hub.every_n_steps=0", "every_n_steps"),
        ("callbacks.hub.private=maybe", "private"),
    ],
)
def test_bad_settings(
    run_cli: Cli,
    tiny_run: list[str],
    argument: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli(*tiny_run, *HUB, argument) == 2
    assert words in capsys.readouterr().err
    assert not Path("runs").exists()
