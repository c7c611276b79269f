"""From config nodes to the frozen values that the library takes. Nothing below `cli` sees a config
node.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from bksdm import expected
from bksdm.cli.launch import split_flags
from bksdm.cli.logger_package import check_logger
from bksdm.errors import InputError

T = TypeVar("T")


def built(node: DictConfig, kind: type[T], **extra: Any) -> T:
    """The object that a node's `_target_` describes; `extra` goes to it untouched.

    Raises:
        InputError: the node has a key or a value that the target does not take.
    """
    try:
        # In two steps: Hydra would turn a dataclass among the arguments into a config.
        result = hydra.utils.instantiate(node, _convert_="all", _partial_=True)(**extra)
    except TypeError as error:
        raise InputError(f"settings of {kind.__name__}: {error}") from error
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from error
        if isinstance(cause, TypeError):
            raise InputError(f"settings of {kind.__name__}: {cause}") from error
        raise
    if not isinstance(result, kind):
        raise InputError(f"settings {OmegaConf.to_container(node)} make no {kind.__name__}")
    return result


def task_overrides() -> list[str]:
    """What was given on the command line, to give it again to other processes."""
    given = HydraConfig.get().overrides.task
    return [item for item in given if not item.lstrip("+~").startswith("launcher")]


def hydra_flags() -> list[str]:
    """Hydra's own flags of this command, such as --config-dir, but for the one that makes a sweep:
    what is started with them is one job of it.
    """
    flags, _ = split_flags(sys.argv[1:])
    return [flag for flag in flags if flag not in ("-m", "--multirun")]


def run_path(config: DictConfig) -> Path:
    """Of the run's folder; YAML may have taken its name for a number.

    Raises:
        InputError: there is none.
    """
    for name, what in (("runs_dir", "the folder of all runs"), ("name", "the run's folder")):
        if config[name] is None:
            raise InputError(f"{name}=null: expected the name of {what}")
    return Path(str(config.runs_dir)) / str(config.name)


def logger_of(config: DictConfig) -> Callable[[], Any] | None:
    """Makes the logger that is wanted beside metrics.csv and TensorBoard, if any.

    Raises:
        InputError: its package is not installed.
    """
    node = config.logger.extra
    if node is None:
        return None
    check_logger(config)

    def make() -> Any:
        return hydra.utils.instantiate(node, _convert_="all")

    return make


def number(config: DictConfig, name: str, *, least: int) -> int:
    """A whole number among the settings.

    Raises:
        InputError: something else.
    """
    value = OmegaConf.select(config, name)
    expected.count(name, value, least=least)
    return int(value)


def optional_number(config: DictConfig, name: str, *, least: int) -> int | None:
    """The same, or None where the setting is null."""
    if OmegaConf.select(config, name) is None:
        return None
    return number(config, name, least=least)


def switch(config: DictConfig, name: str) -> bool:
    """True or false among the settings.

    Raises:
        InputError: something else.
    """
    value = OmegaConf.select(config, name)
    expected.switch(name, value)
    return bool(value)


def folder(config: DictConfig, name: str) -> Path:
    """A folder to write into, which need not be there.

    Raises:
        InputError: none is named, or a file lies in its place.
    """
    value = OmegaConf.select(config, name)
    if not isinstance(value, str) or not value:
        raise InputError(f"{name}={value}: expected a folder")
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        raise InputError(f"{name}={value} is a file; expected a folder")
    return path


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]


def differing_keys(old: dict[str, Any], new: dict[str, Any], *, free: frozenset[str]) -> list[str]:
    """Dotted keys whose values differ, without those that are free to change (a name frees all
    below it).
    """
    flat_old, flat_new = _flat(old), _flat(new)
    keys = [
        key for key in {**flat_old, **flat_new} if flat_old.get(key, ...) != flat_new.get(key, ...)
    ]
    return [
        key for key in keys if not any(key == name or key.startswith(f"{name}.") for name in free)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result
