"""HPS and ImageReward: the published checkpoints' layouts, with random weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import BertTokenizer, CLIPTokenizer

from bksdm.errors import InputError
from bksdm.evaluation.measures.hps import Hps, Padded
from bksdm.evaluation.measures.image_reward import ImageReward
from bksdm.evaluation.measures.inputs import CLIP_MEAN, CLIP_STD, Fit, Input
from tests.evaluation.measures.networks import subject
from tests.evaluation.measures.transformers_folders import (
    TEXTS,
    bert_tokenizer,
    clip_folder,
    open_clip_state,
    pictures,
    rows,
)

State = dict[str, torch.Tensor]
VISION, TEXT, DEPTH, WORDS = 128, 64, 2, 24


def hps_folder(folder: Path) -> None:
    """Half precision, as published."""
    state = open_clip_state(clip_folder(folder))
    halves = {name: value.half() for name, value in state.items()}
    torch.save({"epoch": 1, "state_dict": halves}, folder / "HPS_v2.1_compressed.pt")


def test_hps_is_a_hundred_cosines_of_its_own_preprocessing(tmp_path: Path) -> None:
    hps_folder(tmp_path)
    network = clip_folder(tmp_path / "clip")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
        ids = tokenizer(
            list(TEXTS), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        seen = network.get_image_features(Padded(size=28, antialias=True)(pictures().pixels))
        read = network.get_text_features(ids)
        cosines = F.cosine_similarity(seen.pooler_output, read.pooler_output)
    measuring = Hps(weights=str(tmp_path), architecture=str(tmp_path)).begin(subject())
    for chosen in ([3, 4], [0], [2, 1]):
        measuring.update(rows(pictures(), chosen))
    (score,) = measuring.scores()
    assert score.items is not None
    np.testing.assert_allclose(score.items.values, 100 * cosines.numpy(), atol=1e-4)


def test_a_missing_checkpoint_of_hps_is_named(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    remedy = r"`hf download xswu/HPSv2 HPS_v2.1_compressed.pt` \(2.0 GB\)"
    with pytest.raises(InputError, match=rf"weights xswu/HPSv2: .*{remedy}"):
        Hps(architecture=str(tmp_path)).begin(subject())
    with pytest.raises(InputError, match=r"CLIP-ViT-H-14.* --include '\*.json' '\*.txt'`"):
        Hps().begin(subject())


def blip_state() -> State:
    """ImageReward's names and shapes, small: a ViT of 32 pixels, a BERT, five linear layers."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def add(name: str, *shape: int) -> None:
        state[name] = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3

    def linear(name: str, out: int, into: int) -> None:
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    def norm(name: str, width: int) -> None:
        add(f"{name}.weight", width)
        add(f"{name}.bias", width)

    see, read = "blip.visual_encoder", "blip.text_encoder"
    add(f"{see}.cls_token", 1, 1, VISION)
    add(f"{see}.pos_embed", 1, 5, VISION)
    add(f"{see}.patch_embed.proj.weight", VISION, 3, 16, 16)
    add(f"{see}.patch_embed.proj.bias", VISION)
    for i in range(DEPTH):
        norm(f"{see}.blocks.{i}.norm1", VISION)
        linear(f"{see}.blocks.{i}.attn.qkv", 3 * VISION, VISION)
        linear(f"{see}.blocks.{i}.attn.proj", VISION, VISION)
        norm(f"{see}.blocks.{i}.norm2", VISION)
        linear(f"{see}.blocks.{i}.mlp.fc1", 2 * VISION, VISION)
        linear(f"{see}.blocks.{i}.mlp.fc2", VISION, 2 * VISION)
    norm(f"{see}.norm", VISION)
    add(f"{read}.embeddings.word_embeddings.weight", WORDS, TEXT)
    add(f"{read}.embeddings.position_embeddings.weight", 40, TEXT)
    norm(f"{read}.embeddings.LayerNorm", TEXT)
    for i in range(DEPTH):
        layer = f"{read}.encoder.layer.{i}"
        for kind, width in (("attention", TEXT), ("crossattention", VISION)):
            linear(f"{layer}.{kind}.self.query", TEXT, TEXT)
            linear(f"{layer}.{kind}.self.key", TEXT, width)
            linear(f"{layer}.{kind}.self.value", TEXT, width)
            linear(f"{layer}.{kind}.output.dense", TEXT, TEXT)
            norm(f"{layer}.{kind}.output.LayerNorm", TEXT)
        linear(f"{layer}.intermediate.dense", 2 * TEXT, TEXT)
        linear(f"{layer}.output.dense", TEXT, 2 * TEXT)
        norm(f"{layer}.output.LayerNorm", TEXT)
    for i, (out, into) in {0: (32, TEXT), 2: (16, 32), 4: (8, 16), 6: (4, 8), 7: (1, 4)}.items():
        linear(f"mlp.layers.{i}", out, into)
    linear("blip.vision_proj", 8, VISION)  # published, and not used
    return state


class Direct:
    """The reward of one picture and prompt, written down from the paper in float64."""

    def __init__(self, state: State) -> None:
        self.state = state

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    @staticmethod
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        heads = []
        for start in range(0, q.shape[-1], 64):
            part = slice(start, start + 64)
            weights = (q[:, part] @ k[:, part].T / math.sqrt(64)).softmax(-1)
            heads.append(weights @ v[:, part])
        return torch.cat(heads, -1)

    def see(self, values: torch.Tensor) -> torch.Tensor:
        name = "blip.visual_encoder"
        kernel = self.state[f"{name}.patch_embed.proj.weight"].flatten(1)
        patches = [
            kernel @ values[:, y : y + 16, x : x + 16].flatten() for y in (0, 16) for x in (0, 16)
        ]
        patches = [each + self.state[f"{name}.patch_embed.proj.bias"] for each in patches]
        x = torch.stack([self.state[f"{name}.cls_token"][0, 0], *patches])
        x = x + self.state[f"{name}.pos_embed"][0]
        for i in range(DEPTH):
            block = f"{name}.blocks.{i}"
            q, k, v = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6)).chunk(
                3, -1
            )
            x = x + self.linear(f"{block}.attn.proj", self.attend(q, k, v))
            inner = self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6))
            x = x + self.linear(f"{block}.mlp.fc2", F.gelu(inner))
        return self.norm(f"{name}.norm", x, 1e-6)

    def reward(self, values: torch.Tensor, ids: list[int]) -> float:
        seen, name = self.see(values.double()), "blip.text_encoder"
        x = self.state[f"{name}.embeddings.word_embeddings.weight"][ids]
        x = x + self.state[f"{name}.embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(f"{name}.embeddings.LayerNorm", x, 1e-12)
        for i in range(DEPTH):
            layer = f"{name}.encoder.layer.{i}"
            for kind in ("attention", "crossattention"):
                own = f"{layer}.{kind}"
                source = x if kind == "attention" else seen
                q = self.linear(f"{own}.self.query", x)
                k, v = (self.linear(f"{own}.self.{part}", source) for part in ("key", "value"))
                mixed = self.linear(f"{own}.output.dense", self.attend(q, k, v))
                x = self.norm(f"{own}.output.LayerNorm", x + mixed, 1e-12)
            inner = F.gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(
                f"{layer}.output.LayerNorm", x + self.linear(f"{layer}.output.dense", inner), 1e-12
            )
        first = x[0]
        for i in (0, 2, 4, 6, 7):
            first = self.linear(f"mlp.layers.{i}", first)
        return (float(first) - 0.16717362830052426) / 1.0333394966054072


def test_image_reward_is_the_published_formula(tmp_path: Path) -> None:
    state = blip_state()
    torch.save({name: value.float() for name, value in state.items()}, tmp_path / "ImageReward.pt")
    bert_tokenizer(tmp_path)
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    values = Input(size=32, fit=Fit.SHORTEST, mean=CLIP_MEAN, std=CLIP_STD)(pictures().pixels)
    direct = Direct(state)
    expected = []
    for text, each in zip(TEXTS, values, strict=True):
        ids = tokenizer(text).input_ids
        ids = ids if len(ids) <= 35 else [*ids[:34], tokenizer.sep_token_id]
        expected.append(direct.reward(each, ids))
    assert max(expected) - min(expected) > 1e-3
    measure = ImageReward(weights=str(tmp_path), tokenizer=str(tmp_path))
    measuring = measure.begin(subject())
    for chosen in ([3, 4], [0], [2, 1]):
        measuring.update(rows(pictures(), chosen))
    (score,) = measuring.scores()
    assert score.items is not None
    np.testing.assert_allclose(score.items.values, expected, atol=1e-5)
    assert score.value == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.parametrize("missing", ["blip.visual_encoder.pos_embed", "mlp.layers.2.bias"])
def test_weights_that_are_not_image_rewards_are_refused(tmp_path: Path, missing: str) -> None:
    state = blip_state()
    del state[missing]
    torch.save(state, tmp_path / "ImageReward.pt")
    bert_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"ImageReward.pt: (has )?no "):
        ImageReward(weights=str(tmp_path), tokenizer=str(tmp_path)).begin(subject())
