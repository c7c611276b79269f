"""Names of tensors in the layout of the original Stable Diffusion releases: what U-Net, VAE and
text encoder have in common.

Knows nothing of any one network.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bksdm.errors import InputError

Config = Mapping[str, Any]
Places = dict[str, str]  # diffusers module or tensor -> its name in the original layout


def names(tensors: Iterable[str], places: Places, *, prefix: str, part: str) -> dict[str, str]:
    """Original name of each tensor: its own place, or its module's place and its last name.

    Raises:
        InputError: one has no place.
    """
    result = {}
    for tensor in tensors:
        module, _, last = tensor.rpartition(".")
        if tensor in places:
            result[tensor] = prefix + places[tensor]
        elif module in places and last in ("weight", "bias"):
            result[tensor] = f"{prefix}{places[module]}.{last}"
        else:
            raise InputError(
                f"{part} tensor {tensor}: the original layout has no place for it; expected a stock"
                " Stable Diffusion 1 or 2 without adapters; export a diffusers folder instead"
            )
    return result


def check_stock(config: Config, stock: Config, *, part: str) -> None:
    """Raise InputError unless a network's config has what all readers take for granted."""
    for name, wanted in stock.items():
        value = config.get(name, wanted)
        values = value if isinstance(value, list | tuple) else [value]  # one a stage
        if any(each != wanted for each in values):
            raise InputError(
                f"{part}.{name}={value!r}: the original layout's readers take {wanted!r} for"
                " granted; export a diffusers folder instead"
            )


def inner_places(table: Mapping[str, str], name: str, place: str) -> Places:
    """Places of a module's inner ones."""
    return {f"{name}.{inner}": f"{place}.{original}" for inner, original in table.items()}
