import os
import signal

import pytest

from bksdm.cli.progress import Progress


def test_without_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, what="encode", seconds=0) as progress:
        progress.advance(4)
    assert capsys.readouterr().out.startswith("encode: 4/10 images, ")
    with Progress(10, what="encode", seconds=60) as progress:
        progress.advance(4)
    assert capsys.readouterr().out == ""


def test_other_processes_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, what="encode", seconds=0, shown=False) as progress:
        progress.advance(4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_between_two_units(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Progress(10, what="encode") as progress:
        os.kill(os.getpid(), number)
        with pytest.raises(SystemExit) as caught:
            progress.advance(1)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
