import pytest
import torch

from bksdm.batch import NoisyBatch, Prediction
from bksdm.errors import InputError
from bksdm.losses.distill import LossTerms, LossWeights, distillation_terms, feature_loss


def noisy(target: torch.Tensor, weights: torch.Tensor) -> NoisyBatch:
    zero = torch.zeros_like(target)
    return NoisyBatch(zero, torch.zeros(len(target), dtype=torch.long), zero, target, weights)


def test_terms_agree_with_a_double_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    sample, target, answer = (torch.randn(3, 2, 2, 2, generator=rng) for _ in range(3))
    features = [
        (torch.randn(3, n, generator=rng), torch.randn(3, n, generator=rng)) for n in (2, 5)
    ]
    weights = torch.tensor([1.0, 0.5, 2.0])
    student = Prediction(sample, tuple(s for s, _ in features))
    teacher = Prediction(answer, tuple(t for _, t in features))
    terms = distillation_terms(student, teacher, noisy(target, weights), normalise_features=False)

    def squared(a: torch.Tensor, b: torch.Tensor) -> list[float]:
        return [
            (x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
        ]

    task = [w * sum(squared(sample[i], target[i])) / 8 for i, w in enumerate(weights.tolist())]
    assert terms.task.item() == pytest.approx(sum(task) / 3, rel=1e-5)
    assert terms.output_kd.item() == pytest.approx(sum(squared(sample, answer)) / 24, rel=1e-5)
    layers = [sum(squared(s, t)) / s.numel() for s, t in features]
    assert terms.feature_kd.item() == pytest.approx(
        sum(layers), rel=1e-5
    )  # summed over layers, not averaged


def test_normalised_features_do_not_depend_on_scale() -> None:
    student, target = torch.randn(4, 6), torch.randn(4, 6)
    plain = feature_loss([student], [target], normalise=True)
    torch.testing.assert_close(
        feature_loss([1000 * student], [1000 * target], normalise=True), plain
    )
    each = ((student - target) ** 2).sum(1) / (target**2).sum(1)
    torch.testing.assert_close(plain, each.mean())
    halves = [
        feature_loss([student[rows]], [target[rows]], normalise=True)
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), plain)  # on two processes, too


def test_losses_are_fp32_even_from_bf16() -> None:
    half = torch.randn(2, 4, 2, 2, dtype=torch.bfloat16)
    terms = distillation_terms(
        Prediction(half, (half,)),
        Prediction(half + 1, (half + 1,)),
        noisy(half, torch.ones(2)),
        normalise_features=False,
    )
    assert {value.dtype for value in vars(terms).values()} == {torch.float32}


def test_a_term_with_weight_zero_adds_nothing() -> None:
    terms = LossTerms(*(torch.tensor(value) for value in (1.0, 10.0, 100.0)))
    assert terms.total(LossWeights(task=1, output_kd=0, feature_kd=0.5)).item() == 51


@pytest.mark.parametrize("values", [(0, 0, 0), (1, -1, 1)])
def test_weights_that_train_nothing_or_away_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match=r"method\.weights"):
        LossWeights(task=values[0], output_kd=values[1], feature_kd=values[2])


def test_pairs_of_unequal_number_are_a_bug() -> None:
    with pytest.raises(ValueError, match="zip"):
        feature_loss([torch.zeros(1)], [], normalise=False)
