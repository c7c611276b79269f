"""The embedded text encoder: a CLIPTokenizer with one token a word, and a CLIPTextModel that has
learnt to read.

A text encoder trained jointly with the U-Net from scratch learns far slower than one that is
trained first and frozen (shared prototype). Ours learns by answering questions about the scene from
the states at and after the end token: background, number of things, each thing's size, colour and
shape, their relation. Cross-attention then finds the whole scene in any of these states.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bksdm.data.shapes import COLORS, RELATIONS, SHAPES, SIZES, Scene

from .fit import fit
from .pictures import pictures

MAX_TOKENS = 20
WIDTH = 64
BATCH = 256


def build_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Train a byte-pair vocabulary in which every word of `captions` is one token, in CLIP's file
    format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=[],
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    trained = json.loads(bpe.to_str())["model"]
    # Every letter also as a last letter, so that words of other worlds become letters, not
    # unknowns.
    words = sorted(set(trained["vocab"]) | {f"{letter}</w>" for letter in alphabet})
    vocabulary = {
        token: index for index, token in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *(" ".join(pair) for pair in trained["merges"])])
    )
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=MAX_TOKENS,
    )
    known = {word for caption in captions for word in caption.split()}
    split = {word for word in known if len(tokenizer(word).input_ids) != 3}
    if split:
        raise ValueError(f"words of more than one token: {sorted(split)}")
    return tokenizer


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder for the tokenizer's vocabulary."""
    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids, padded to the length the model takes, of shape (captions, 20)."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


class Questions(nn.Module):
    """Linear answers about a scene from one text state."""

    def __init__(self) -> None:
        super().__init__()
        thing = {"size": len(SIZES), "color": len(COLORS), "shape": len(SHAPES)}
        sizes = {f"{name}{i}": n for i in (0, 1) for name, n in thing.items()}
        sizes |= {"background": len(COLORS), "relation": len(RELATIONS) + 1}
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, n) for name, n in sizes.items()})

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        return {name: head(states) for name, head in self.heads.items()}


def answers(scene: Scene) -> list[int]:
    """The right answer to each question, in order; -100 where there is no second thing."""
    result = []
    for i in (0, 1):
        if i < len(scene.things):
            thing = scene.things[i]
            result += [
                list(SIZES).index(thing.size),
                list(COLORS).index(thing.color),
                SHAPES.index(thing.shape),
            ]
        else:
            result += [-100] * 3
    relations = [None, *RELATIONS]
    return [*result, list(COLORS).index(scene.background), relations.index(scene.relation)]


def train(work: Path, *, steps: int, count: int = 40_000) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Train vocabulary and encoder; prints the share of questions answered right on fresh and on
    held-out scenes.
    """
    scenes, _ = pictures(count, seed=2)
    tokenizer = build_tokenizer([scene.caption for scene in scenes], work / "tokenizer")
    model = nn.ModuleList([build_encoder(tokenizer), Questions()])
    ids, right = (
        tokens(tokenizer, [s.caption for s in scenes]),
        torch.tensor([answers(s) for s in scenes]),
    )

    def loss(rng: torch.Generator) -> Tensor:
        index = torch.randint(len(ids), (BATCH,), generator=rng)
        return torch.stack([_loss for _loss, _ in _asked(model, ids[index], right[index])]).mean()

    fit(model, loss, steps=steps, lr=2e-3, state=work / "text.pt")
    for held_out in (False, True):
        scenes, _ = pictures(1000, seed=3, held_out=held_out)
        asked = _asked(
            model.eval(),
            tokens(tokenizer, [s.caption for s in scenes]),
            torch.tensor([answers(s) for s in scenes]),
        )
        print(
            f"text, held out {held_out}: answers right"
            f" {torch.stack([share for _, share in asked]).min():.4f} (worst question)"
        )
    return tokenizer, model[0]


def _asked(model: nn.ModuleList, ids: Tensor, right: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cross-entropy and share right of each question, at the end token and after it."""
    encoder, questions = model
    states = encoder(input_ids=ids).last_hidden_state
    at_end = ids == encoder.config.eos_token_id
    counts = at_end.sum(1)
    result = []
    for logits, answer in zip(questions(states[at_end]).values(), right.T, strict=True):
        target = answer.repeat_interleave(counts)
        asked = target != -100
        result.append(
            (F.cross_entropy(logits, target), (logits.argmax(1) == target)[asked].float().mean())
        )
    return result
