"""The measure; how a picture is judged is in tests/evaluation/test_attributes.py."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bksdm.data.shapes import RELATIONS, draw, parse
from bksdm.errors import InputError
from bksdm.evaluation.attributes import ATTRIBUTES, attribute_scores
from bksdm.evaluation.measure import Pictures, Subject
from bksdm.evaluation.measures.attributes import (
    ALL,
    ONE,
    TWO,
    UNSEEN,
    AttributeAccuracy,
    load_outline_net,
    score_names,
)
from bksdm.evaluation.prompts import Prompt, ShapesPrompts
from bksdm.evaluation.score import Better, Score
from bksdm.export.pipeline import load_pipeline
from bksdm.models.source import embedded_folder

PROMPTS = ShapesPrompts(count=30, held_out=8, seed=11).read()


@pytest.fixture(scope="module")
def subject() -> Subject:
    pipeline = load_pipeline(embedded_folder("shapes"))
    return Subject(pipeline, pipeline.device)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Drawn pictures of the prompts; every third is of the next prompt's caption."""
    texts = [prompt.text for prompt in PROMPTS]
    wrong = [texts[i + (i % 3 == 0 and i + 1 < len(texts))] for i in range(len(texts))]
    images = [np.array(draw(parse(text), np.random.default_rng(i))) for i, text in enumerate(wrong)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def measured(
    subject: Subject, prompts: list[Prompt], pixels: torch.Tensor, size: int
) -> dict[str, Score]:
    measuring = AttributeAccuracy().begin(subject)
    for start in range(0, len(prompts), size):
        rows = slice(start, start + size)
        measuring.update(Pictures(tuple(prompts[rows]), pixels[rows]))
    return {score.name: score for score in measuring.scores()}


def test_every_score_is_the_mean_over_its_prompts(subject: Subject, pixels: torch.Tensor) -> None:
    found = measured(subject, PROMPTS, pixels, 38)
    right = attribute_scores(pixels, [prompt.text for prompt in PROMPTS], load_outline_net())
    scenes = [parse(prompt.text) for prompt in PROMPTS]
    seen = [i for i, scene in enumerate(scenes) if not scene.held_out]
    assert len(seen) == 30
    kinds = {
        ALL: (seen, "all"),
        ONE: ([i for i in seen if len(scenes[i].things) == 1], "all"),
        TWO: ([i for i in seen if len(scenes[i].things) == 2], "all"),
        UNSEEN: ([i for i in range(38) if scenes[i].held_out], "all"),
        "relation": ([i for i in seen if scenes[i].relation in RELATIONS], "relation"),
        **{name: (seen, name) for name in ATTRIBUTES if name not in ("all", "relation")},
    }
    assert list(found) == score_names()
    assert set(found) == set(kinds)
    for name, (rows, attribute) in kinds.items():
        score = found[name]
        assert score.n == len(rows)
        assert score.value == pytest.approx(np.mean([right[attribute][i] for i in rows])), name
        assert score.items is not None
        assert set(score.items.ids) == {PROMPTS[i].id for i in rows}
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.value <= score.high
        assert score.better is Better.HIGHER
    assert 0.3 < found[ALL].value < 0.9
    assert found[ONE].n + found[TWO].n == found[ALL].n


def test_batches_make_no_difference(subject: Subject, pixels: torch.Tensor) -> None:
    assert measured(subject, PROMPTS, pixels, 7) == measured(subject, PROMPTS, pixels, 38)


def test_kinds_that_no_prompt_is_of_are_left_out(subject: Subject, pixels: torch.Tensor) -> None:
    seen = measured(subject, PROMPTS[:30], pixels[:30], 30)
    assert UNSEEN not in seen
    assert list(measured(subject, PROMPTS[30:], pixels[30:], 8)) == [UNSEEN]


def test_held_out_prompts_change_nothing_else(subject: Subject, pixels: torch.Tensor) -> None:
    with_them, without = (measured(subject, PROMPTS[:n], pixels[:n], 38) for n in (38, 30))
    assert {name: with_them[name] for name in without} == without


def test_models_of_other_sizes_are_refused_before_anything_is_made(sd1_folder: Path) -> None:
    pipeline = load_pipeline(sd1_folder)
    with pytest.raises(InputError, match="makes 16x16 pictures"):
        AttributeAccuracy().begin(Subject(pipeline, pipeline.device))


def test_prompts_of_another_world_are_refused(subject: Subject, pixels: torch.Tensor) -> None:
    with pytest.raises(InputError, match="not of the shapes world"):
        measured(subject, [Prompt("x", "a photo of a cat", 0)], pixels[:1], 1)
