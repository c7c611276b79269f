"""`bksdm VERB [key=value ...]`: finds the verb, lets Hydra compose its configuration, turns errors
into one line.

Exit codes: 0 done; 2 the user must change something; 1 a bug; 130 / 143 ended by Ctrl-C / SIGTERM.
"""

import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.resources import files

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before the first import of transformers
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bksdm import __version__
from bksdm.errors import InputError, LostProcessError, ToldElsewhereError, of_the_disk
from bksdm.processes import this_process

VERBS = {
    "plan": "what a student keeps and drops, with parameters and MACs beside the teacher's",
    "prepare": "makes shards: the embedded world, a folder of captioned pictures, or COCO",
    "check": "what shards hold: bad samples, captions, sizes, duplicates; trains nothing",
    "encode": "image shards to latent shards, on any number of processes; resumes",
    "train": "cuts a student from a teacher and distils it; the same command again resumes",
    "generate": "prompts to PNG files and a grid, from any diffusers folder, a run or the Hub",
    "evaluate": "a named protocol for one model, or for several side by side",
    "export": "a run's checkpoint to a diffusers folder, reloaded and compared",
}

TEXTS = (  # free text, where Hydra has a grammar
    "prompt",
    "data.shards",
    "data.validation_shards",
    "shards",
    "source.path",
    "source.metadata",
    "source.annotations",
    "source.images",
)


def main() -> int:
    """The console entry point."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb, overrides = arguments[0], arguments[1:]
    if verb not in VERBS:
        return _refuse(
            f"bksdm: no verb {verb!r}; expected one of {', '.join(VERBS)} (see bksdm --help)"
        )
    try:
        return _run(verb, follow_teacher(verb, overrides))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ToldElsewhereError:
        return 2
    except LostProcessError as error:
        _refuse(f"bksdm {verb}: {error}")
        sys.stdout.flush()
        os._exit(1)  # whatever else would end in order waits for the lost one
    except Exception as error:
        line = _explanation(error, verb)
        if line is None:
            raise
        process = this_process()
        who = "" if process.first else f" (process {process.rank})"
        return _refuse(f"bksdm {verb}{who}: {line}")


def _run(verb: str, overrides: list[str]) -> int:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us instead of Hydra's own report
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _hide_loading_bars()
    run: Callable[[DictConfig], int] = importlib.import_module(f"bksdm.cli.{verb}").run
    codes: list[int] = []
    failures: list[BaseException] = []

    def task(config: DictConfig) -> None:
        try:
            codes.append(run(config))
        except (Exception, KeyboardInterrupt) as error:
            failures.append(error)  # past Hydra, which would print a report of its own

    sys.argv = [f"bksdm {verb}", *overrides]
    hydra.main(version_base="1.3", config_path="pkg://bksdm.conf", config_name=verb)(task)()
    if failures:
        raise failures[0]
    return codes[-1] if codes else 0


def _hide_loading_bars() -> None:
    """Bars for reading local weights hide the ones that matter; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()


def follow_teacher(verb: str, overrides: list[str]) -> list[str]:
    """Resolve `teacher=folder/or/hub-id`, and let the experiment follow the teacher unless it is
    named.

    Raises:
        InputError: `teacher=` is neither a named teacher nor looks like a folder or Hub id.
    """
    overrides, options = _apart(overrides)
    added = [item for item in overrides if item[:1] in ("+", "~")]
    if added:
        raise InputError(
            f"{added[0]}: settings cannot be added or removed; `bksdm {verb} --cfg job` lists them"
        )
    bare = [item for item in overrides if "=" not in item]
    if bare:
        raise InputError(f"{bare[0]}: settings are given as key=value")
    result = [quoted_text(item) for item in overrides]
    chosen = {name: value for name, _, value in (item.partition("=") for item in overrides)}
    teacher = chosen.get("teacher")
    if teacher is None:
        return [*result, *options]
    named = sorted(
        entry.name.removesuffix(".yaml") for entry in (files("bksdm.conf") / "teacher").iterdir()
    )
    if teacher not in named:
        if "/" not in teacher and not os.path.isdir(teacher):
            raise InputError(
                f"teacher={teacher}: expected one of {', '.join(named)}, a folder or a Hub id"
                " (owner/name)"
            )
        at = result.index(f"teacher={teacher}")
        short = teacher.rstrip("/").rsplit("/", 1)[-1]
        result[at : at + 1] = ["teacher=pretrained", f"teacher.path='{teacher}'"]
        if "teacher.name" not in chosen:
            result.append(f"teacher.name='{short}'")
    if verb == "train" and teacher != "shapes" and "experiment" not in chosen:
        result.append("experiment=bk_sdm")
    return [*result, *options]


def _apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Settings, and Hydra's own options with their values: its parser wants the options last."""
    settings: list[str] = []
    options: list[str] = []
    for before, item in zip(["", *arguments], arguments, strict=False):
        option = item.startswith("-") or before in ("--cfg", "-c", "--package", "-p", "--info")
        (options if option else settings).append(item)
    return settings, options


def quoted_text(override: str) -> str:
    """`prompt=a cat, a dog` and `data.shards=a/{0..9}.tar` as Hydra wants them: quoted, unless they
    are a list or quoted already.
    """
    name, equals, value = override.partition("=")
    if name not in TEXTS or not equals or value[:1] in ("", "[", "'", '"'):
        return override
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"


def _explanation(error: BaseException, verb: str) -> str | None:
    """One line for errors that the user can do something about, else None."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    for link in chain:
        if isinstance(link, InputError):
            return _one_line(link)
        if isinstance(link, OSError) and (told := of_the_disk(link)) is not None:
            return told
    if any(type(link).__name__ == "OutOfMemoryError" for link in chain):
        return (
            "the GPU's memory is full; use a smaller data.batch_size (data.global_batch stays), or "
            "speed.gradient_checkpointing=true"
        )
    if isinstance(error, HydraException | OmegaConfBaseException) or _raised_by(error, "hydra"):
        return _of_setting(_one_line(error), verb)
    return None


def _of_setting(message: str, verb: str) -> str:
    """Hydra's message without its advice, which is wrong here: adding a setting does nothing."""
    unknown = re.match(r"Could not override '([^']+)'", message)
    if unknown:
        return f"no setting {unknown[1]!r}; `bksdm {verb} --cfg job` lists them"
    missing = re.match(
        r"Missing mandatory value: .*full_key: (\S+)|Missing mandatory value: (\S+)", message
    )
    if missing:
        return f"{missing[1] or missing[2]}= is missing; give it a value"
    return message.split(" Config search path:")[0]


def _raised_by(error: BaseException, package: str) -> bool:
    """True if the innermost frame of an error is in a package: Hydra raises bare ValueErrors for
    some overrides.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    return (
        bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] == package
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _refuse(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb.ljust(width)}  {purpose}" for verb, purpose in VERBS.items()]
    return "\n".join(
        [
            "usage: bksdm VERB [key=value ...]",
            "",
            *lines,
            "",
            (
                "bksdm VERB --cfg job shows a verb's settings; every one of them can be given as"
                " key=value."
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
