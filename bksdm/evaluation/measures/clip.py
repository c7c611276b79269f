"""CLIP: pictures and texts as unit vectors in one space.

Weights in transformers' layout or in open_clip's; where a place has both, transformers' are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection

from bksdm.errors import InputError
from bksdm.evaluation.measure import Pictures
from bksdm.evaluation.measures import open_clip
from bksdm.evaluation.measures.features import FEATURES, Extractor, Identity, measuring
from bksdm.evaluation.measures.inputs import Fit, clip_input
from bksdm.evaluation.measures.per_prompt import PerPrompt
from bksdm.evaluation.measures.weights import (
    TRANSFORMERS,
    Loaded,
    Place,
    load_state,
    pretrained,
    read_state,
)
from bksdm.evaluation.score import Better, Score
from bksdm.models.hub import first_line

# N pictures or texts, D dimensions of the shared space

_TOKENIZER: Final = ("tokenizer_config.json", "vocab.json", "vocab.txt")


class Prepare(Protocol):
    """How pictures become the network's input."""

    @property
    def words(self) -> str:
        """For results."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to float32 (N, 3, size, size), on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Both halves of a CLIP.

    Attributes:
        network: a `CLIPModel` on `device`.
        tokenizer: its.
        input: how a picture becomes its input.
        device: where it is.
        sha256: of its weights.
    """

    network: Any
    tokenizer: Any
    input: Prepare
    device: torch.device
    sha256: str

    @measuring()
    def pictures(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to unit vectors (N, D), float64 on the CPU."""
        values = self.input(pixels).to(self.device)
        found = self.network.get_image_features(pixel_values=values)
        return unit(found.pooler_output)

    @measuring()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """N texts, cut off after the network's longest, to unit vectors (N, D), likewise."""
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        # Attention is causal, so what pads the text cannot change the vector at its end.
        found = self.network.get_text_features(input_ids=tokens.input_ids.to(self.device))
        return unit(found.pooler_output)


def unit(vectors: Tensor) -> Tensor:
    """Rows of length 1, float64 on the CPU."""
    return torch.nn.functional.normalize(vectors.cpu().double(), dim=-1)


def load_clip(place: Place, device: torch.device) -> Clip:
    """A CLIP.

    Raises:
        InputError: its weights, tokenizer or preprocessing are not there, or of something else.
    """
    prepare: Prepare
    if place.find("config.json", open_clip.CONFIG).name == "config.json":
        loaded = _load(place)
        prepare = clip_input(place.settings("preprocessor_config.json"), of=place.words)
    else:
        settings = place.settings(open_clip.CONFIG)
        loaded = _load_open_clip(place, open_clip.clip_config(settings, of=place.words))
        prepare = open_clip.open_clip_input(settings)
    return Clip(
        network=loaded.network.to(device),
        tokenizer=load_tokenizer(CLIPTokenizer, place),
        input=prepare,
        device=device,
        sha256=loaded.sha256,
    )


def _load(place: Place) -> Loaded:
    file = place.find(*TRANSFORMERS, *open_clip.WEIGHTS)
    if file.name in TRANSFORMERS:
        return pretrained(CLIPModel, place)
    return _load_open_clip(place, CLIPModel.config_class.from_dict(place.settings("config.json")))


def _load_open_clip(place: Place, config: Any) -> Loaded:
    file = place.find(*open_clip.WEIGHTS)
    return load_state(CLIPModel(config), open_clip.clip_state(read_state(file)), file)


def load_tokenizer(tokenizer: Any, place: Place) -> Any:
    """A tokenizer of transformers.

    Raises:
        InputError: not there.
    """
    place.find(*_TOKENIZER)
    try:
        return tokenizer.from_pretrained(place.location, revision=place.revision)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"weights {place.words}: no tokenizer ({first_line(error)});"
            f" {place.remedy(*_TOKENIZER)}"
        ) from error


class PromptCosine:
    """A measure under way: the cosine of each picture and its prompt, times `scale`."""

    def __init__(self, clip: Clip, name: str, place: str, *, scale: float = 1.0) -> None:
        self.clip, self.name, self.place, self.scale = clip, name, place, scale
        self.values = PerPrompt()

    def update(self, pictures: Pictures) -> None:
        """Take in N pictures."""
        images = self.clip.pictures(pictures.pixels)
        texts = self.clip.texts([prompt.text for prompt in pictures.prompts])
        cosines = (images * texts).sum(-1)
        self.values.update([prompt.id for prompt in pictures.prompts], self.scale * cosines)

    def scores(self) -> Sequence[Score]:
        """The mean over prompts."""
        details = {
            "weights": self.place,
            "weights_sha256": self.clip.sha256,
            "input": self.clip.input.words,
        }
        return [self.values.score(self.name, Better.HIGHER, details=details)]


@dataclass(frozen=True, kw_only=True)
class ClipFeatures:
    """CLIP's unit vectors of pictures, for CMMD: crop to a square, PIL's bicubic resize (its
    reference implementation; the same as CLIP's own for a square picture).

    Attributes:
        weights: a folder in transformers' layout or a Hub id.
        revision: on the Hub.
    """

    weights: str = "openai/clip-vit-large-patch14-336"
    revision: str | None = None

    def load(self, device: torch.device) -> Extractor:
        """The picture half alone.

        Raises:
            InputError: not there.
        """
        place = Place(self.weights, self.revision)
        loaded = pretrained(CLIPVisionModelWithProjection, place)
        network = loaded.network.to(device)
        own = clip_input(place.settings("preprocessor_config.json"), of=place.words)
        prepare = replace(own, fit=Fit.CROP)
        return Extractor(
            identity=Identity(
                name="CLIP, unit vectors",
                weights=loaded.sha256,
                source=place.words,
                input=prepare.words,
            ),
            dims={FEATURES: network.config.projection_dim},
            forward=lambda pixels: {
                FEATURES: unit(network(pixel_values=prepare(pixels).to(device)).image_embeds)
            },
        )
