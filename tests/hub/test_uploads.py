"""A run that goes to a local Hub while it trains: callbacks=hub."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.export import hub as export_hub
from bksdm.export.hub import Destination
from bksdm.training.folder import RunFolder
from bksdm.training.hub import HubSettings, HubUploads
from tests.hub.server import Fault, Hub

Cli = Callable[..., int]
REPO = "user/tiny"
HUB = ["callbacks=hub", f"callbacks.hub.repo={REPO}", "callbacks.hub.license=mit"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.setattr(export_hub, "LONGEST_WAIT", 0)
    del waits


def settings(**given: object) -> HubSettings:
    values = {"repo": REPO, "every_n_steps": 2, "license": "mit", **given}
    return HubSettings(**values)  # type: ignore[arg-type]


def test_a_training_ends_on_the_hub(
    run_cli: Cli, hub: Hub, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, *HUB, "callbacks.hub.every_n_steps=2") == 0
    assert f"hub: step 4 is in hf://{REPO}" in capsys.readouterr().out
    files = hub.files(REPO)
    assert {"model_index.json", "checkpoints/last.ckpt", "README.md"} <= files.keys()
    assert hub.token not in Path("runs/tiny-small/config.yaml").read_text()


def test_a_training_does_not_need_the_hub(
    run_cli: Cli,
    hub: Hub,
    tiny_run: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del hub
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert run_cli(*tiny_run, *HUB, "callbacks.hub.every_n_steps=1") == 0
    told = capsys.readouterr().out
    assert "hub: nothing of 4 steps has arrived" in told
    assert f"bksdm push run=runs/tiny-small repo={REPO}" in told
    assert Path("runs/tiny-small/student/model_index.json").exists()


def test_a_hub_that_does_not_answer_delays_no_step(hub: Hub, whole: Path) -> None:
    hub.faults.append(Fault("POST", "/repos/create", "stall", seconds=5))
    uploads = HubUploads(settings(patience_minutes=0.002), RunFolder(whole))
    begin = time.monotonic()
    for step in range(1, 5):
        uploads.saved(step)
    assert time.monotonic() - begin < 1
    told = uploads.finish(4)
    assert time.monotonic() - begin < 3
    assert "it was still on its way" in told


def test_what_is_asked_for_meanwhile_is_one_push(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    messages: list[str] = []

    def slow(folder: Path, to: Destination, *, message: str) -> None:
        del folder, to
        messages.append(message)
        begun.set()
        go_on.wait(30)

    monkeypatch.setattr("bksdm.training.hub.push", slow)
    uploads = HubUploads(settings(every_n_steps=1), RunFolder(whole))
    uploads.saved(1)
    assert begun.wait(30)
    for step in (2, 3, 4):
        uploads.saved(step)
    threading.Timer(1, go_on.set).start()  # when the last, too, is asked for
    assert uploads.finish(4) == f"hub: step 4 is in hf://{REPO}"
    assert messages == ["step 4", "step 4"]


def test_a_failed_push_is_made_up_by_the_next(hub: Hub, whole: Path) -> None:
    hub.faults.append(Fault("POST", "/repos/create", 403))
    uploads = HubUploads(settings(), RunFolder(whole))
    uploads.saved(2)
    for _ in range(100):
        if not len(hub.faults):
            break
        time.sleep(0.05)
    assert uploads.finish(4) == f"hub: step 4 is in hf://{REPO}"


def test_pushes_follow_the_interval(hub: Hub, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub
    asked: list[int] = []
    monkeypatch.setattr(HubUploads, "_ask", lambda self, step: _note(self, step, asked))
    uploads = HubUploads(settings(every_n_steps=10), RunFolder(whole))
    for step in (4, 8, 12, 16, 20, 24):
        uploads.saved(step)
    assert asked == [12, 20]


def _note(uploads: HubUploads, step: int, asked: list[int]) -> None:
    uploads._asked = step
    asked.append(step)


def test_the_thread_ends_with_the_process(whole: Path) -> None:
    HubUploads(settings(), RunFolder(whole))
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "hub")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("callbacks.hub.repo=tiny", "expected owner/name"),
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
