"""One process a GPU of this machine, by torch's elastic launcher, where neither torchrun nor srun
has started them.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bksdm.errors import LostProcessError
from bksdm.training.signals import HEEDED

# Seconds that processes have to save after a signal.
_GRACE: Final = "600"


def start_processes(arguments: Sequence[str], *, count: int) -> int:
    """Run `bksdm` with these arguments in `count` processes; returns their exit code.

    Raises:
        LostProcessError: one of them was killed.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _GRACE)
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    known = {field.name for field in fields(LaunchConfig)}  # torch 2.6 knows fewer signals
    names = ",".join(number.name for number in HEEDED)
    heeded: dict[str, Any] = {"signals_to_handle": names} if "signals_to_handle" in known else {}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="bksdm",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        **heeded,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "bksdm.cli.main", *arguments)
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise LostProcessError(
                f"process {rank} of {count} was ended by {name} (SIGKILL: often out of memory);"
                " what is saved stays: the same command goes on from there"
            ) from error
        return int(failure.exitcode)
    return 0
