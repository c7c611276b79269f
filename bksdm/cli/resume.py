"""`bksdm train resume=hf://owner/name`: a run comes back from the Hub, with its settings.

They are a stranger's: plain values are taken and nothing that would be resolved, called or written
elsewhere. Where the run lies here, who is told of it and what this machine caches is said here.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bksdm.atomic import replacing
from bksdm.cli.same_run import FREE, check_same_run
from bksdm.errors import InputError
from bksdm.models.address import HubAddress, hub_address
from bksdm.models.hub import hub_file, hub_folder
from bksdm.training.folder import RunFolder
from bksdm.training.publish import CHECKPOINT, RESUMABLE

# Groups that may be given: of trainer and speed what is free to change, of the others all.
_PARTLY: Final = ("trainer", "speed")
_WHOLLY: Final = ("callbacks", "export", "logger", "protocol", "samples")
_HERE: Final = ("callbacks", "logger", "resume", "runs_dir")  # never the stranger's
_NAME: Final = re.compile(r"\w[\w.-]*")


def resumed(config: DictConfig) -> DictConfig:
    """The settings of the run at `resume=`, with those of this command line in them; the same
    config where nothing is resumed.

    Raises:
        InputError: there is no run, or its settings are not to be trusted.
    """
    if config.resume is None:
        return config
    address, given = _address(config), _given()
    here = RunFolder(Path(str(config.runs_dir)) / str(config.name)) if "name" in given else None
    if here is not None and here.begun:  # a job that starts again needs no Hub
        settings = here.settings()
    else:
        of = f"resume={address}"
        file = hub_file(address.repository, "config.yaml", revision=address.revision, of=of)
        # The cache keeps a commit a folder: what else is fetched is of the same one.
        address = HubAddress(address.repository, file.parent.name)
        settings = RunFolder(file.parent).settings()
        if "name" not in given and not _NAME.fullmatch(str(settings.get("name"))):
            raise InputError(f"{of}: its name {settings.get('name')!r} is no folder's; give name=")
    _refuse_foreign(settings, of=f"resume={config.resume}")
    return _merged(OmegaConf.create(settings), config, given, address)


def _given() -> list[str]:
    """Settings and groups of this command line, by name."""
    names = [item.partition("=")[0] for item in HydraConfig.get().overrides.task]
    return [name for name in names if name.partition(".")[0] not in ("launcher", "hydra", "resume")]


def _merged(
    run: DictConfig, config: DictConfig, given: list[str], address: HubAddress
) -> DictConfig:
    """The run's settings with those of here in them."""
    for name, node in config.items():
        if isinstance(node, DictConfig) and not isinstance(run.get(name, {}), DictConfig | None):
            raise InputError(f"resume={address}: its {name!s} is no group of settings")
    groups = [name for name in given if "." not in name and isinstance(config[name], DictConfig)]
    for name in groups:
        if name not in (*_PARTLY, *_WHOLLY):
            raise InputError(
                f"{name}=: resume={address} brings the run's own settings; leave it out, or give"
                f" what may change below it by name, such as {name}.SETTING="
            )
    taken = [*_HERE, *(str(key) for key in config if key not in run)]
    if "cache" in config.data:
        taken.append("data.cache")
    taken += [name for name in given if name not in groups or name in _WHOLLY]
    if "trainer" in groups:  # it brings its speed with it
        groups.append("speed")
    for group in set(groups) & set(_PARTLY):
        taken += [name for key in config[group] if (name := f"{group}.{key}") in FREE]
    for name in taken:
        OmegaConf.update(run, name, OmegaConf.select(config, name), merge=False)
    run.resume = str(address)
    return run


def fetch(address: HubAddress, folder: RunFolder, values: dict[str, Any]) -> None:
    """Put the files of the run at an address into a folder that has no run yet.

    Raises:
        InputError: they cannot be had, the run has other settings than `values`, or something else
            lies in the folder.
    """
    if folder.path.exists() and any(folder.path.iterdir()) and not folder.config.exists():
        raise InputError(f"{folder.path} holds something else; choose another name=")
    there = hub_folder(address, RESUMABLE, of=f"resume={address}")
    if not (there / CHECKPOINT).is_file():
        raise InputError(
            f"resume={address}: it has no {CHECKPOINT}; expected one that was pushed with its"
            " checkpoint"
        )
    check_same_run(RunFolder(there), values)
    folder.write_config(yaml.safe_dump(values, sort_keys=False))
    # The checkpoint last, as it is last in the list: with it, the run has begun here.
    for path in (path for pattern in RESUMABLE for path in sorted(there.glob(pattern))):
        if path.name == folder.config.name:
            continue
        target = folder.path / path.relative_to(there)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)


def run_address(config: DictConfig) -> HubAddress | None:
    """What `resume=` says."""
    return None if config.resume is None else _address(config)


def _address(config: DictConfig) -> HubAddress:
    address = hub_address(str(config.resume))
    if address is None:
        raise InputError(
            f"resume={config.resume}: expected hf://owner/name[@revision]; a run that lies here is"
            " gone on with by the same command again"
        )
    return address


def _refuse_foreign(settings: Mapping[str, Any], *, of: str) -> None:
    """A run's settings are resolved when they are written, and a `_target_` is called with what
    stands beside it: only what we would write ourselves is taken.
    """
    nodes = list(_nodes({name: node for name, node in settings.items() if name not in _HERE}))
    resolving = next((text for text in nodes if isinstance(text, str) and "${" in text), None)
    if resolving is not None:
        raise InputError(f"{of}: its config.yaml would be resolved here: {resolving}; it is not")
    targets = {str(node["_target_"]) for node in nodes if _calls(node)}
    foreign = sorted(targets - set(_known_targets(files("bksdm.conf"))))
    if foreign:
        raise InputError(
            f"{of}: its config.yaml calls {', '.join(foreign)}, which no configuration of bksdm"
            " does; it is not called"
        )


def _calls(node: Any) -> bool:
    return isinstance(node, Mapping) and "_target_" in node


def _nodes(node: Any) -> Iterator[Any]:
    """All values of nested settings, and their keys."""
    yield node
    if isinstance(node, Mapping):
        yield from node
    inner = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    for each in inner:
        yield from _nodes(each)


def _known_targets(folder: Traversable) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _known_targets(entry)
        elif entry.name.endswith(".yaml"):
            yield from re.findall(r"_target_:\s*([\w.]+)", entry.read_text())
