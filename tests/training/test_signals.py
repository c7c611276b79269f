import os
import signal

import pytest

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
