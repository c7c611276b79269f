"""ImageReward v1.0: a reward that people's rankings of pictures for a prompt taught.

Xu et al., arXiv 2304.05977: BLIP's ViT-L sees the picture, its BERT reads the prompt with cross
attention to it, and linear layers turn the first token's state into a reward, normalised by its
mean and standard deviation over the authors' data. The checkpoint's names are mapped onto
transformers' BLIP.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
)

from bksdm.errors import InputError
from bksdm.evaluation.measure import Pictures, Subject
from bksdm.evaluation.measures.clip import load_tokenizer
from bksdm.evaluation.measures.features import measuring
from bksdm.evaluation.measures.inputs import CLIP_MEAN, CLIP_STD, Fit, Input
from bksdm.evaluation.measures.per_prompt import PerPrompt
from bksdm.evaluation.measures.weights import Place, load_state, read_state
from bksdm.evaluation.score import Better, Score

TOKENS: Final = 35  # of a prompt
MEAN: Final = 0.16717362830052426
STD: Final = 1.0333394966054072

_HEAD_WIDTH: Final = 64  # of attention, in BLIP's ViTs and BERT
_EPS: Final = 1e-6  # of the ViT's norms; transformers' default is another
_NAMES: Final = (
    (r"^blip\.visual_encoder\.", "vision."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "head."),
    (r"^vision\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^vision\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^vision\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^vision\.norm\.", "vision.post_layernorm."),
    (r"^vision\.blocks\.(\d+)\.norm(\d)\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"^vision\.blocks\.(\d+)\.attn\.qkv\.", r"vision.encoder.layers.\1.self_attn.qkv."),
    (r"^vision\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"^vision\.blocks\.(\d+)\.mlp\.", r"vision.encoder.layers.\1.mlp."),
)


class Reward(nn.Module):
    """Picture and prompt to a reward."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig, head: dict[str, nn.Linear]):
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = nn.ModuleDict(head)  # in order; nothing between them

    def forward(self, values: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Rewards (N,) of pictures (N, 3, size, size) and N prompts' token ids and mask (N, L)."""
        seen = self.vision(pixel_values=values).last_hidden_state
        state = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=seen.device),
            is_decoder=False,  # sees the whole prompt
        ).last_hidden_state[:, 0]
        for layer in self.head.values():
            state = layer(state)
        reward: Tensor = (state.squeeze(-1) - MEAN) / STD
        return reward


@dataclass(frozen=True, kw_only=True)
class ImageReward:
    """The score.

    Attributes:
        name: of the score.
        weights: a folder or Hub id that has `file`.
        file: the published checkpoint.
        revision: on the Hub.
        tokenizer: a folder or Hub id of BERT's, uncased.
    """

    name: str = "ImageReward"
    weights: str = "THUDM/ImageReward"
    file: str = "ImageReward.pt"
    revision: str | None = None
    tokenizer: str = "google-bert/bert-base-uncased"

    @property
    def names(self) -> tuple[str, ...]:
        """Of its score."""
        return (self.name,)

    def begin(self, subject: Subject) -> "_ImageReward":
        """Load the network.

        Raises:
            InputError: a file is not there, or is something else.
        """
        tokenizer = load_tokenizer(BertTokenizer, Place(self.tokenizer, small=True))
        file = Place(self.weights, self.revision).find(self.file)
        state = reward_state(read_state(file))
        try:
            network = reward_network(state)
        except KeyError as error:
            raise InputError(f"{file}: has no {error}; expected ImageReward's weights") from error
        loaded = load_state(network, state, file)
        return _ImageReward(self, network.to(subject.device), tokenizer, loaded.sha256)


class _ImageReward:
    def __init__(self, settings: ImageReward, network: Reward, tokenizer: Any, sha256: str) -> None:
        self.settings = settings
        self.network = network
        self.tokenizer = tokenizer
        self.sha256 = sha256
        size = network.vision.config.image_size
        self.input = Input(size=size, fit=Fit.SHORTEST, mean=CLIP_MEAN, std=CLIP_STD)
        self.values = PerPrompt()

    @measuring()
    def update(self, pictures: Pictures) -> None:
        """Take in N pictures."""
        device = next(self.network.parameters()).device
        tokens = self.tokenizer(
            [prompt.text for prompt in pictures.prompts],
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).to(device)
        values = self.input(pictures.pixels).to(device)
        rewards = self.network(values, tokens.input_ids, tokens.attention_mask)
        self.values.update([prompt.id for prompt in pictures.prompts], rewards.cpu())

    def scores(self) -> Sequence[Score]:
        """The mean reward."""
        settings = self.settings
        details = {
            "weights": f"{Place(settings.weights, settings.revision).words}/{settings.file}",
            "weights_sha256": self.sha256,
            "tokenizer": settings.tokenizer,
            "input": self.input.words,
        }
        return [self.values.score(settings.name, Better.HIGHER, details=details)]


def reward_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's weights under the names of `Reward`, float32."""
    found = {}
    for name, value in state.items():
        own = name
        for pattern, replacement in _NAMES:
            own = re.sub(pattern, replacement, own)
        found[own] = value.to(torch.float32) if value.is_floating_point() else value
    return found


def reward_network(state: Mapping[str, Tensor]) -> Reward:
    """A network of the sizes of these weights.

    Raises:
        KeyError: one that tells a size is missing.
    """
    positions = state["vision.embeddings.position_embedding"]
    patch = state["vision.embeddings.patch_embedding.weight"].shape[-1]
    width = positions.shape[-1]
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["vision.encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=_count(state, r"vision\.encoder\.layers\.(\d+)\."),
        num_attention_heads=width // _HEAD_WIDTH,
        image_size=math.isqrt(positions.shape[1] - 1) * patch,
        patch_size=patch,
        layer_norm_eps=_EPS,
    )
    words = state["text.embeddings.word_embeddings.weight"]
    text = BlipTextConfig(
        vocab_size=len(words),
        hidden_size=words.shape[1],
        encoder_hidden_size=width,
        intermediate_size=len(state["text.encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_count(state, r"text\.encoder\.layer\.(\d+)\."),
        num_attention_heads=words.shape[1] // _HEAD_WIDTH,
        max_position_embeddings=len(state["text.embeddings.position_embeddings.weight"]),
    )
    numbers = sorted(
        int(name.split(".")[1]) for name in state if re.fullmatch(r"head\.\d+\.weight", name)
    )
    head = {str(i): nn.Linear(*state[f"head.{i}.weight"].shape[::-1]) for i in numbers}
    return Reward(vision, text, head)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in state if (found := re.match(pattern, name))})
