import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.measures.inception_score import InceptionScore
from bksdm.evaluation.score import Score


def score(logits: Tensor, splits: int = 10) -> Score:
    rows = logits.float()
    nothing = torch.zeros(0)
    found = FeatureSet(len(rows), nothing, nothing, rows)
    return InceptionScore(splits=splits).scores(found, None)[0]


def by_hand(logits: np.ndarray) -> float:
    """exp(mean over pictures of sum over classes of p log(p / q)), number by number."""
    p = [[math.exp(x) for x in row] for row in logits]
    p = [[x / sum(row) for x in row] for row in p]
    q = [sum(row[c] for row in p) / len(p) for c in range(len(p[0]))]
    divergences = [
        sum(x * math.log(x / marginal) for x, marginal in zip(row, q, strict=True)) for row in p
    ]
    return math.exp(sum(divergences) / len(p))


def test_it_is_the_formula_over_the_published_splits() -> None:
    logits = 3 * torch.randn(47, 6, generator=torch.Generator().manual_seed(0))
    shuffled = logits.numpy().astype(np.float64)[np.random.RandomState(2020).permutation(47)]
    values = [by_hand(shuffled[i * 47 // 10 : (i + 1) * 47 // 10]) for i in range(10)]
    found = score(logits)
    assert found.value == pytest.approx(np.mean(values), rel=1e-12)
    assert found.deviation == pytest.approx(np.std(values), rel=1e-9)
    assert found.interval == "s.d. of 10 splits"


def test_pictures_that_are_all_alike_score_one() -> None:
    assert score(torch.ones(50, 1).repeat(1, 4)).value == pytest.approx(1.0, rel=1e-12)


def test_sure_and_even_classes_score_their_number() -> None:
    assert score(60 * torch.eye(4).repeat(25, 1), splits=1).value == pytest.approx(4.0, rel=1e-9)


def test_fewer_pictures_than_splits_are_a_split_each() -> None:
    assert score(torch.eye(4)).interval == "s.d. of 4 splits"
    assert math.isnan(score(torch.zeros(0, 4)).value)
