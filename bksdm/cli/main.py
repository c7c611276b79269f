"""`bksdm VERB [key=value ...]`: finds the verb, lets Hydra compose its configuration, turns errors
into one line.

Exit codes: 0 done; 2 the user must change something; 1 a bug; 130 / 143 ended by Ctrl-C / SIGTERM.
"""

import os
import signal
import sys
from collections.abc import Mapping
from importlib.resources import files

from bksdm import __version__
from bksdm.cli.explain import explained
from bksdm.cli.launch import launch, quoted, split_flags
from bksdm.errors import InputError
from bksdm.models.address import hub_address

VERBS = {
    "plan": "what a student keeps and drops, with parameters and MACs beside the teacher's",
    "prepare": "makes shards: the embedded world, a folder of captioned pictures, or COCO",
    "check": "what a run's shards hold, what it will cost, and what would stop it; trains nothing",
    "encode": "image shards to latent shards, on any number of processes; resumes",
    "train": "cuts a student from a teacher and distils it; the same command again resumes",
    "route": "sends each prompt to one of N smaller U-Nets: trains router and plans; resumes",
    "prune": "zeroes weights after training: one model, a sweep with its cliffs, or the best split",
    "generate": "prompts to PNG files and a grid, of one model, or of several side by side",
    "evaluate": "a named protocol for one model, or for several side by side",
    "report": "one HTML page of what was measured: bksdm report runs/a runs/b",
    "export": "a student's checkpoint to a diffusers folder, proven in stock diffusers",
    "push": "a run to the Hub: diffusers folder, card, checkpoint, results; dry_run=true shows it",
}

RECIPES = {"train": "bk_sdm", "check": "bk_sdm", "route": "route_aptp"}  # of another teacher

POSITIONAL = {"report": "model"}  # verbs that take bare arguments, and which setting they are

TEXTS = (  # free text, where Hydra has a grammar
    "prompt",
    "prompts",
    "protocol.prompts.path",
    "calibration.prompts.path",
    "title",
    "data.shards",
    "data.validation_shards",
    "shards",
    "source.path",
    "source.metadata",
    "source.annotations",
    "source.images",
    "reference_prompts",
)


def main() -> int:
    """The console entry point."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"bksdm {__version__}")
        return 0
    if arguments[0] in ("--completion", "--complete"):
        return _complete(arguments[0], arguments[1:])
    verb, (flags, settings) = arguments[0], split_flags(arguments[1:])
    if verb not in VERBS:
        return _refuse(
            f"bksdm: no verb {verb!r}; expected one of {', '.join(VERBS)} (see bksdm --help)"
        )
    try:
        return launch(verb, [*flags, *follow_teacher(verb, gathered(verb, settings))])
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        ending = explained(error, verb)
        if ending is None:
            raise
        return ending.tell()


def follow_teacher(verb: str, overrides: list[str]) -> list[str]:
    """Resolve `teacher=folder/or/hub-id`, and let the experiment follow the teacher unless it is
    named.

    Raises:
        InputError: `teacher=` is neither a named teacher nor looks like a folder or Hub id.
    """
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
        return result
    named = sorted(
        entry.name.removesuffix(".yaml") for entry in (files("bksdm.conf") / "teacher").iterdir()
    )
    several = teacher.split(",")  # of a sweep
    names = several if set(several) <= set(named) else [teacher]
    if teacher not in named and len(names) == 1:
        if "/" not in teacher and not os.path.isdir(teacher):
            raise InputError(
                f"teacher={teacher}: expected one of {', '.join(named)}, a folder or a Hub id"
                " (owner/name, or hf://owner/name@revision)"
            )
        at = result.index(f"teacher={teacher}")
        result[at : at + 1] = _from_elsewhere(teacher, chosen)
    recipe = RECIPES.get(verb)
    if recipe is not None and "experiment" not in chosen and names != ["shapes"]:
        if "shapes" in names:
            raise InputError(
                f"teacher={teacher}: shapes and others in one sweep follow no common recipe; give"
                " experiment="
            )
        result.append(f"experiment={recipe}")
    return result


def _from_elsewhere(teacher: str, chosen: Mapping[str, str]) -> list[str]:
    """The settings of a teacher that lies in a folder or on the Hub."""
    address = hub_address(teacher)
    path = teacher if address is None else address.repository
    settings = ["teacher=pretrained", f"teacher.path={quoted(path)}"]
    if address is not None and address.revision is not None:
        if "teacher.revision" in chosen:
            raise InputError(f"{teacher}: teacher.revision= is given, too; expected one of them")
        settings.append(f"teacher.revision={quoted(address.revision)}")
    if "teacher.name" not in chosen:
        short = path.rstrip("/").rsplit("/", 1)[-1]
        settings.append(f"teacher.name={quoted(short)}")
    return settings


def gathered(verb: str, arguments: list[str]) -> list[str]:
    """`bksdm report a b out=c` as `model=['a','b'] out=c`, for the verbs that have it so.

    Raises:
        InputError: the setting is given as well.
    """
    setting = POSITIONAL.get(verb)
    if setting is None:
        return arguments
    # A path may have a = in it, as the folders of a sweep have.
    bare = [item for item in arguments if "=" not in item or os.path.exists(item)]
    others = [item for item in arguments if item not in bare]
    if not bare:
        return others
    if any(item.startswith(f"{setting}=") for item in others):
        raise InputError(f"{bare[0]}: given beside {setting}=; put it into the list there")
    return [f"{setting}=[{','.join(map(quoted, bare))}]", *others]


def quoted_text(override: str) -> str:
    """`prompt=a cat, a dog` and `data.shards=a/{0..9}.tar` as Hydra wants them: quoted, unless they
    are a list, nothing (null), or quoted already.
    """
    name, _, value = override.partition("=")
    if name not in TEXTS or value in ("", "null") or value[:1] in ("[", "'", '"'):
        return override
    return f"{name}={quoted(value)}"


def _complete(option: str, words: list[str]) -> int:
    from bksdm.cli.completion import candidates, script

    if option == "--complete":
        if len(words) > 1 and words[0] in VERBS:
            print("".join(f"{found}\n" for found in candidates(words)), end="")
        return 0
    try:
        print(script(" ".join(words)), end="")
    except InputError as error:
        return _refuse(f"bksdm: {error}")
    return 0


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
            "bksdm --version; bksdm --completion bash|zsh|fish prints a script for the shell.",
            (
                "bksdm VERB --cfg job shows a verb's settings; every one of them can be given as"
                " key=value."
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
