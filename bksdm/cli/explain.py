"""Errors as one line and an exit code: what the user can do something about, in its terms."""

import os
import re
import sys
import traceback
from dataclasses import dataclass
from typing import Final

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bksdm.errors import InputError, LostProcessError, ToldElsewhereError, of_the_disk
from bksdm.processes import this_process

_LESS_OF_A_STEP: Final = (
    "use a smaller data.batch_size (data.global_batch stays), or speed.gradient_checkpointing=true"
)
_LESS_MEMORY: Final = {
    "generate": "use a smaller batch_size, or dtype=float16",
    "evaluate": "use a smaller protocol.sampling.batch_size, or protocol.sampling.dtype=float16",
    "encode": "use a smaller batch_size, or precision=float16",
}


@dataclass(frozen=True)
class Ending:
    """How a command ends that could not do its work.

    Attributes:
        code: the exit code.
        line: for stderr; empty where another process says it.
        stuck: an end in order would wait for a process that has gone.
    """

    code: int
    line: str
    stuck: bool = False

    def tell(self) -> int:
        """Print the line; returns the exit code, unless the process has to end here and now."""
        if self.line:
            print(self.line, file=sys.stderr, flush=True)
        if self.stuck:
            sys.stdout.flush()
            os._exit(self.code)
        return self.code


def explained(error: Exception, verb: str) -> Ending | None:
    """The end that an error means; None for a bug, which deserves its traceback."""
    process = this_process()
    who = f"bksdm {verb}" + f" (process {process.rank})" * (not process.first)
    if isinstance(error, ToldElsewhereError):
        return Ending(2, "")
    if isinstance(error, LostProcessError):
        return Ending(1, f"{who}: {one_line(error)}", stuck=True)
    line = _explanation(error, verb)
    return None if line is None else Ending(2, f"{who}: {line}")


def _explanation(error: BaseException, verb: str) -> str | None:
    """One line for errors that the user can do something about, else None."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    for link in chain:
        if isinstance(link, InputError):
            return one_line(link)
        if isinstance(link, OSError) and (told := of_the_disk(link)) is not None:
            return told
    if any(type(link).__name__ == "OutOfMemoryError" for link in chain):
        return f"the GPU's memory is full; {_LESS_MEMORY.get(verb, _LESS_OF_A_STEP)}"
    if isinstance(error, HydraException | OmegaConfBaseException) or _raised_by(error, "hydra"):
        return _of_setting(one_line(error), verb)
    if _raised_by(error, "submitit"):  # no Slurm here, or sbatch refuses
        return f"launcher=slurm: {one_line(error)}"
    return None


def _of_setting(message: str, verb: str) -> str:
    """Hydra's message without its advice, which is wrong here: adding a setting does nothing."""
    unknown = re.match(r"Could not override '([^']+)'", message)
    if unknown and unknown[1].startswith("launcher."):
        return f"{unknown[1]} is a setting of launcher=slurm; give that, too"
    if unknown:
        return f"no setting {unknown[1]!r}; `bksdm {verb} --cfg job` lists them"
    missing = re.match(
        r"Missing mandatory value: .*full_key: (\S+)|Missing mandatory value: (\S+)", message
    )
    if missing:
        return f"{missing[1] or missing[2]}= is missing; give it a value"
    if "hydra/launcher/submitit_slurm" in message:
        return "launcher=slurm needs submitit: pip install 'bksdm[slurm]'"
    return message.split(" Config search path:")[0]


def _raised_by(error: BaseException, package: str) -> bool:
    """True if the innermost frame of an error is in a package: Hydra raises bare ValueErrors for
    some overrides.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    return (
        bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] == package
    )


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())
