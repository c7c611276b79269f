"""What a step is given: pictures or latents, as the shards say or as one plans."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from omegaconf import DictConfig

from bksdm.cli.shards_report import Split
from bksdm.errors import InputError

CHOICES: Final = ("pictures", "latents", "latents+text")


@dataclass(frozen=True)
class Holds:
    """What the training shards hold.

    Attributes:
        latents: of the VAE, which a step then leaves out.
        text: states of the text encoder, too.
        basis: how that is known, in words.
    """

    latents: bool = False
    text: bool = False
    basis: str = "as the shards say"

    def __str__(self) -> str:
        """For people."""
        if not self.latents:
            return f"a step takes pictures: VAE and text encoder in the loop ({self.basis})"
        text = "text states cached" if self.text else "text encoder in the loop"
        return f"a step takes latents: no VAE, {text} ({self.basis})"


def held_by(config: DictConfig, splits: Mapping[str, Split]) -> Holds:
    """What `holds=` says; else what the training shards say; else pictures.

    Raises:
        InputError: `holds=` says something else, or a shard cannot be read.
    """
    wanted = config.holds
    if wanted is not None:
        if wanted not in CHOICES:
            raise InputError(f"holds={wanted}: expected one of {', '.join(CHOICES)}, or null")
        return Holds(wanted != "pictures", wanted == "latents+text", f"holds={wanted}")
    told = splits["training"].format if "training" in splits else None
    if told is None:
        return Holds(basis="assumed, no shard was read; holds=latents for others")
    return Holds(bool(told), bool(told and json.loads(told).get("text_hash")))
