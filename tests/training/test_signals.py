import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.cli.progress import Progress
from bksdm.training.signals import HEEDED, Signals


@pytest.mark.parametrize("number", HEEDED)
def test_outside_training_a_signal_ends_the_process(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Signals() as signals, pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number
    assert signals.received is number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", HEEDED)
def test_while_patient_it_waits(number: signal.Signals) -> None:
    with Signals() as signals:
        signals.patient = True
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received is number  # the first one decides


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    with Signals() as signals:
        signals.patient = True
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", HEEDED)
def test_a_signal_while_a_trained_run_is_evaluated_is_one_end(
    run_cli: Callable[..., int],
    tiny_run: list[str],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    def evaluated(*arguments: object, **keywords: object) -> None:
        with Progress(1, what=whole.name) as progress:
            os.kill(os.getpid(), number)
            progress.advance(1)

    monkeypatch.setattr("bksdm.cli.train.finish", evaluated)
    shutil.rmtree(whole / "student")
    with pytest.raises(SystemExit) as ended:
        run_cli(*tiny_run, "name=whole", "checkpoint.keep_every_n_steps=1")
    assert ended.value.code == 128 + number
