"""Networks of a diffusers folder whose weights are packed, as stock classes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from bksdm.errors import InputError
from bksdm.export.narrow import PLAN, hollow_unet, narrow_plan
from bksdm.export.unpacked import packed_dtype, read_packed
from bksdm.models.address import HubAddress
from bksdm.models.hub import first_line, hub_folder
from bksdm.models.source import PACKED
from bksdm.surgery.sparse.plan import COMPONENTS


def _unet(folder: Path) -> nn.Module:
    network: nn.Module = hollow_unet(folder, narrow_plan(folder.parent))
    return network


def _text_encoder(folder: Path) -> nn.Module:
    network: nn.Module = CLIPTextModel(CLIPTextConfig.from_pretrained(folder))
    return network


_EMPTY: Final[Mapping[str, Callable[[Path], nn.Module]]] = {
    "text_encoder": _text_encoder,
    "unet": _unet,
}
assert set(_EMPTY) == set(COMPONENTS)


def packed_in(folder: Path) -> list[str]:
    """Names of the components of a folder whose weights are packed."""
    return [part for part in COMPONENTS if (folder / part / PACKED).is_file()]


def packed_networks(folder: Path, *, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The packed networks of a folder by component, in eval mode on the CPU.

    Raises:
        InputError: a file is damaged, of another version, or not of the network that its config
            says.
    """
    return {part: _network(part, folder / part, dtype) for part in packed_in(folder)}


def dtype_in(folder: Path) -> torch.dtype:
    """The type of the packed weights of a folder.

    Raises:
        InputError: there are none.
    """
    parts = packed_in(folder)
    if not parts:
        raise InputError(
            f"{folder}: no {PACKED} in {' or '.join(COMPONENTS)}; expected a folder that was"
            " written packed"
        )
    return packed_dtype(folder / parts[0] / PACKED)


def fetched_from_hub(repository: str, *, revision: str | None) -> Path | None:
    """The cache's folder with the packed components of a repository; None where it has none, or
    cannot be had.
    """
    files = (PACKED, PLAN, "config.json")
    wanted = [f"{part}/{file}" for part in COMPONENTS for file in files]
    try:
        found = hub_folder(HubAddress(repository, revision), wanted, of=f"model {repository}")
    except InputError:
        return None
    return found if packed_in(found) else None


def _network(part: str, folder: Path, dtype: torch.dtype) -> nn.Module:
    try:
        with init_empty_weights(include_buffers=False):  # the weights come as they are read
            network = _EMPTY[part](folder)
        network.load_state_dict(read_packed(folder / PACKED, dtype=dtype), assign=True)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{folder}: {first_line(error)}; expected the packed weights of the network that its"
            " config.json says"
        ) from error
    return network.eval()
