"""HPS v2.1: how much people would prefer a picture for its prompt, by a CLIP ViT-H/14 tuned on
their choices.

Wu et al., arXiv 2306.09341: 100 times the cosine of picture and prompt. Only scores of the same
prompts and the same version are comparable.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from bksdm import expected
from bksdm.errors import InputError
from bksdm.evaluation.measure import Subject
from bksdm.evaluation.measures.clip import Clip, PromptCosine, load_tokenizer
from bksdm.evaluation.measures.inputs import CLIP_MEAN, CLIP_STD, normalised
from bksdm.evaluation.measures.open_clip import clip_state
from bksdm.evaluation.measures.weights import Place, load_state, read_state

_PERCENT: Final = 100


@dataclass(frozen=True, kw_only=True)
class Padded:
    """HPS's own preprocessing: values 0 to 1, longest side resized, black borders.

    Attributes:
        size: side in pixels.
        antialias: of the bicubic resize. torchvision has it since 0.17; before, when the score's
            authors printed theirs, it had not.
    """

    size: int
    antialias: bool

    @property
    def words(self) -> str:
        """For results."""
        how = "antialiased" if self.antialias else "not antialiased"
        return f"{self.size} px, longest side resized, bicubic, {how}, padded with black"

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) on any device to float32 (N, 3, size, size) on the CPU."""
        values = pixels.cpu().float() / 255
        height, width = values.shape[-2:]
        scale = self.size / max(height, width)
        if scale != 1:
            size = (round(height * scale), round(width * scale))
            values = torch.nn.functional.interpolate(
                values, size, mode="bicubic", antialias=self.antialias
            )
        down, right = (self.size - side for side in values.shape[-2:])
        border = (right // 2, right - right // 2, down // 2, down - down // 2)
        return normalised(torch.nn.functional.pad(values, border), CLIP_MEAN, CLIP_STD)


@dataclass(frozen=True, kw_only=True)
class Hps:
    """The score.

    Attributes:
        name: of the score; says the version.
        weights: a folder or Hub id that has `file`.
        file: a checkpoint of open_clip's ViT-H/14 under "state_dict".
        revision: on the Hub.
        architecture: a folder or Hub id with the config and tokenizer of that CLIP in transformers'
            layout.
        antialias: see `Padded`.
    """

    name: str = "HPS v2.1"
    weights: str = "xswu/HPSv2"
    file: str = "HPS_v2.1_compressed.pt"
    revision: str | None = None
    architecture: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    antialias: bool = True

    def __post_init__(self) -> None:
        expected.switch("Hps.antialias", self.antialias)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (self.name,)

    def begin(self, subject: Subject) -> PromptCosine:
        """Load the network.

        Raises:
            InputError: a file is not there.
        """
        place = f"{Place(self.weights, self.revision).words}/{self.file}"
        return PromptCosine(_load(self, subject.device), self.name, place, scale=_PERCENT)


def _load(settings: Hps, device: torch.device) -> Clip:
    of = Place(settings.architecture, small=True)
    network = CLIPModel(CLIPModel.config_class.from_dict(of.settings("config.json")))
    tokenizer = load_tokenizer(CLIPTokenizer, of)
    file = Place(settings.weights, settings.revision).find(settings.file)
    content = read_state(file)
    if "state_dict" not in content:
        raise InputError(f"{file}: has no state_dict; expected a checkpoint of HPS v2")
    loaded = load_state(network, clip_state(content["state_dict"]), file)
    return Clip(
        network=network.to(device),
        tokenizer=tokenizer,
        input=Padded(size=network.config.vision_config.image_size, antialias=settings.antialias),
        device=device,
        sha256=loaded.sha256,
    )
