"""`bksdm train resume=hf://owner/name`: a run comes back from the Hub, with its settings."""

import re
import shutil
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bksdm.atomic import replacing
from bksdm.cli.same_run import check_same_run
from bksdm.errors import InputError
from bksdm.models.address import HubAddress, hub_address
from bksdm.models.hub import hub_file, hub_folder
from bksdm.training.folder import RunFolder
from bksdm.training.publish import CHECKPOINT, RESUMABLE

_FOLLOWED: Final = ("experiment", "teacher", "student", "method")  # what a run is cannot be changed
_SHARDS: Final = ("data.shards", "data.validation_shards")


def resumed(config: DictConfig) -> DictConfig:
    """The settings of the run at `resume=`, with those of this command line in them; the same
    config where nothing is resumed.

    Raises:
        InputError: there is no run, or this version cannot go on with its settings.
    """
    if config.resume is None:
        return config
    address = _address(config)
    given = [item.partition("=")[0] for item in HydraConfig.get().overrides.task]
    given = [
        name for name in given if name.partition(".")[0] not in ("launcher", "hydra", "resume")
    ]
    fixed = [name for name in given if name in _FOLLOWED]
    if fixed:
        raise InputError(
            f"{fixed[0]}=: resume={address} brings the run's own settings; leave it out"
        )
    # A single file: a job that starts again without the Hub finds it in the cache.
    config_file = hub_file(
        address.repository, "config.yaml", revision=address.revision, of=f"resume={address}"
    )
    settings = RunFolder(config_file.parent).settings()
    _refuse_foreign(settings, of=address)
    merged = OmegaConf.create(settings)
    for name in [*(key for key in config if key not in merged), *given]:
        OmegaConf.update(merged, str(name), OmegaConf.select(config, str(name)), merge=False)
    for name in _SHARDS:
        if name not in given and "pipe:" in str(OmegaConf.select(merged, name)):
            raise InputError(f"resume={address}: its {name} runs a command; give {name}= yourself")
    merged.resume = config.resume
    return merged


def fetch(address: HubAddress, folder: RunFolder, values: dict[str, Any]) -> None:
    """Put the files of the run at an address into a folder that has no run yet.

    Raises:
        InputError: they cannot be had, or the run has other settings than `values`.
    """
    there = hub_folder(address, RESUMABLE, of=f"resume={address}")
    if not (there / CHECKPOINT).is_file():
        raise InputError(
            f"resume={address}: it has no {CHECKPOINT}; expected one that was pushed with its"
            " checkpoint"
        )
    check_same_run(RunFolder(there), values)
    # The checkpoint last, as it is last in the list: with it, the run has begun here.
    for path in (path for pattern in RESUMABLE for path in sorted(there.glob(pattern))):
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


def _refuse_foreign(settings: Mapping[str, Any], *, of: HubAddress) -> None:
    """A `_target_` is called with what stands beside it: only ours may come from outside."""
    foreign = sorted(_targets(settings) - _known_targets(files("bksdm.conf")))
    if foreign:
        raise InputError(
            f"resume={of}: its config.yaml calls {', '.join(foreign)}, which no configuration of"
            " bksdm does; it is not run"
        )


def _targets(node: Any) -> set[str]:
    if isinstance(node, Mapping):
        own = {str(node["_target_"])} if "_target_" in node else set()
        return own.union(*map(_targets, node.values()))
    if isinstance(node, list):
        return set().union(*map(_targets, node))
    return set()


def _known_targets(folder: Traversable) -> set[str]:
    found: set[str] = set()
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _known_targets(entry)
        elif entry.name.endswith(".yaml"):
            found |= set(re.findall(r"_target_:\s*([\w.]+)", entry.read_text()))
    return found
