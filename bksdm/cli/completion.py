"""Completion of verbs, settings and their choices: the shells' scripts, and the answer that these
ask for.

Verbs stand in the scripts themselves. For settings a script asks `bksdm --complete VERB WORD...`,
which composes what has been typed so far with Hydra and loads no torch.
"""

from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bksdm.cli.launch import split_flags
from bksdm.cli.main import VERBS, follow_teacher
from bksdm.errors import InputError

FLAGS: Final = ("--cfg=job", "--help", "--multirun")  # of Hydra's, those one types

# bash breaks words at = and :, and wants to hear only what follows the last of them; file names
# come (-o default) where we know nothing.
_BASH: Final = """\
_bksdm() {
    local line=${COMP_LINE:0:COMP_POINT} words word broken
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[-1]} broken=${words[-1]##*[=:]}
    [[ $COMP_WORDBREAKS == *=* ]] || broken=$word
    if (( ${#words[@]} == 2 )); then
        COMPREPLY=($(compgen -W "@VERBS@" -- "$word"))
        return
    fi
    local IFS=$'\\n'
    COMPREPLY=($("${words[0]}" --complete "${words[@]:1}" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"${word%"$broken"}"}")
    [[ ${#COMPREPLY[@]} -eq 1 && $COMPREPLY == *[=.] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _bksdm bksdm
"""

_ZSH: Final = """\
_bksdm() {
    local -a found
    if (( CURRENT == 2 )); then
        compadd -- ${=:-@VERBS@}
        return
    fi
    found=(${(f)"$(${words[1]} --complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found == 0 )); then
        compset -P '*='
        _files
        return
    fi
    compadd -S '' -- ${(M)found:#*[=.]}
    compadd -- ${found:#*[=.]}
}
compdef _bksdm bksdm
"""

_FISH: Final = """\
function __bksdm
    set -l words (commandline -opc) (commandline -ct)
    $words[1] --complete $words[2..-1] 2>/dev/null
end
complete -c bksdm -n '__fish_is_first_arg' -f -a '@VERBS@'
complete -c bksdm -n 'not __fish_is_first_arg' -a '(__bksdm)'
"""

SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """What a shell evaluates to complete `bksdm`.

    Raises:
        InputError: there is none for it.
    """
    if shell not in SCRIPTS:
        raise InputError(f"--completion {shell}: expected one of {', '.join(SCRIPTS)}")
    return SCRIPTS[shell].replace("@VERBS@", " ".join(VERBS))


def candidates(words: list[str]) -> list[str]:
    """What the last word may become; the first is the verb. Nothing where something before it
    cannot be composed.
    """
    verb, *before, word = words
    if word.startswith("-"):
        return _beginning(FLAGS, word)
    _, settings = split_flags(before)
    try:
        with initialize_config_module("bksdm.conf", version_base="1.3"):
            overrides = follow_teacher(verb, [item for item in settings if "=" in item])
            config = compose(verb, overrides, return_hydra_config=True)
    except Exception:  # whatever is wrong with the line is told when it is run
        return []
    groups = [name for name in config.hydra.runtime.choices if not name.startswith("hydra/")]
    name, equals, _ = word.partition("=")
    if not equals:
        return _beginning([*(f"{group}=" for group in groups), *_names(config, word)], word)
    if name in groups:
        start = word[: max(word.rfind("="), word.rfind(",")) + 1]  # a sweep lists several
        return _beginning((start + option for option in _options(name)), word)
    return _beginning((f"{name}={value}" for value in _values(config, name)), word)


def _beginning(found: Iterable[str], word: str) -> list[str]:
    return sorted({item for item in found if item.startswith(word)})


def _options(group: str) -> list[str]:
    entries = (files("bksdm.conf") / group).iterdir()
    return [entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")]


def _names(config: DictConfig, word: str) -> list[str]:
    """Settings beside the one that is being typed; `trainer.` has more below it."""
    parent, dot, _ = word.rpartition(".")
    node = OmegaConf.select(config, parent) if dot else config
    if not isinstance(node, DictConfig):
        return []
    return [
        parent + dot + str(key) + ("." if OmegaConf.is_dict(value) else "=")
        for key, value in node.items_ex(resolve=False)
        if key not in ("_target_", "hydra")
    ]


def _values(config: DictConfig, name: str) -> list[str]:
    """What a setting is now, and what else a switch can be."""
    try:
        value = OmegaConf.select(config, name)
    except OmegaConfBaseException:
        return []
    if isinstance(value, bool):
        return ["false", "true"]
    return [str(value)] if isinstance(value, int | float | str) else []
