"""Each criterion beside a second, naive implementation, weight by weight."""

import math

import pytest
import torch
from torch import Tensor

from bksdm.errors import InputError
from bksdm.surgery.sparse.allocation import outlier_share, owl_sparsities
from bksdm.surgery.sparse.budget import (
    Budget,
    Cut,
    Granularity,
    Pattern,
    component_cut,
    drop_count,
    kept_above,
)
from bksdm.surgery.sparse.criteria import (
    Criterion,
    Magnitude,
    Obs,
    Random,
    Wanda,
    wanda_scores,
)
from bksdm.surgery.sparse.obs import compensated
from bksdm.surgery.sparse.statistics import Inputs

RNG = torch.Generator()


def inputs_of(rows: Tensor) -> Inputs:
    """Sums over inputs (N, C)."""
    return Inputs(rows.double().square().sum(0), rows.T @ rows, len(rows), len(rows))


def naive_mask(scores: list[list[float]], budget: Budget) -> list[list[bool]]:
    """Sort, and drop from the front; Python's sort keeps the order of equal scores."""
    rows, columns = len(scores), len(scores[0])
    places = [(r, c) for r in range(rows) for c in range(columns)]
    if budget.pattern is not None:
        m, drop = budget.pattern.m, budget.pattern.m - budget.pattern.n
        groups = [places[i : i + m] for i in range(0, len(places), m)]
    elif budget.granularity is Granularity.ROW:
        groups = [[(r, c) for c in range(columns)] for r in range(rows)]
        drop = math.floor(budget.sparsity * columns + 1e-9)
    else:
        groups, drop = [places], math.floor(budget.sparsity * len(places) + 1e-9)
    stay = [[True] * columns for _ in range(rows)]
    for group in groups:
        for r, c in sorted(group, key=lambda place: scores[place[0]][place[1]])[:drop]:
            stay[r][c] = False
    return stay


BUDGETS = [
    Budget(sparsity=0.35),
    Budget(sparsity=0.0),
    Budget(sparsity=0.475, granularity=Granularity.ROW),
    Budget(sparsity=0.5, pattern=Pattern(n=2, m=4)),
    Budget(sparsity=0.5, pattern=Pattern(n=4, m=8)),
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("criterion", [Magnitude(), Wanda()], ids=lambda c: type(c).__name__)
def test_a_scoring_criterion_zeroes_the_lowest_scores_and_nothing_else(
    criterion: Criterion, budget: Budget
) -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(6, 16), torch.randn(40, 16) * torch.rand(16)
    weight[0, :5] = weight[0, 0]  # ties
    norms = rows.square().sum(0).sqrt() if isinstance(criterion, Wanda) else torch.ones(16)
    scores = [[abs(float(w)) * float(n) for w, n in zip(r, norms, strict=True)] for r in weight]
    stay = torch.tensor(naive_mask(scores, budget))
    pruned = criterion.cut(weight, inputs_of(rows), budget, RNG)
    assert torch.equal(pruned, torch.where(stay, weight, 0.0))


def test_random_scores_are_a_function_of_the_generator_and_hit_the_count() -> None:
    weight, budget = torch.randn(10, 30), Budget(sparsity=0.4)
    first, again, other = (
        Random().cut(weight, None, budget, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert int((first == 0).sum()) == 120


@pytest.mark.parametrize("size", [100, 1000, 301_219_840])
def test_counts_are_of_the_decimal_that_was_written(size: int) -> None:
    assert drop_count(0.29, size) == 29 * size // 100
    assert drop_count(0.475, size) == 475 * size // 1000


def test_half_precision_ties_do_not_push_the_count_up() -> None:
    weight = torch.randn(50, 50).mul(8).round().div(8)  # few distinct values
    for sparsity in (0.1, 0.33, 0.5, 0.75):
        stay = Budget(sparsity=sparsity).kept(weight.abs())
        assert int((~stay).sum()) == drop_count(sparsity, 2500)


@pytest.mark.parametrize("sparsity", [0.001, 0.3, 0.5, 0.999])
def test_one_cut_for_a_network_drops_its_lowest_scores_exactly(sparsity: float) -> None:
    torch.manual_seed(1)
    tensors = [torch.randn(30, 40).abs(), torch.randn(7, 9).abs() * 1e-6, torch.rand(50, 20)]
    tensors[2][:10] = tensors[2][0, 0]  # ties that a count may end within
    drop = drop_count(sparsity, sum(each.numel() for each in tensors))
    everything = torch.cat([each.flatten() for each in tensors])
    stay = torch.ones(len(everything), dtype=torch.bool)
    stay[everything.argsort(stable=True)[:drop]] = False
    cut, found = component_cut(lambda: iter(tensors), drop), []
    assert isinstance(cut, Cut)
    for each in tensors:
        mask, cut = kept_above(each, cut)
        found.append(mask.flatten())
    assert torch.equal(torch.cat(found), stay)


def naive_obs(weight: Tensor, products: Tensor, stay: Tensor, damping: float) -> Tensor:
    """Column by column, with the inverse of the Hessian of what is left, anew for each."""
    work, hessian = weight.double().clone(), products.double().clone()
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian))
    for j in range(work.shape[1]):
        inverse = torch.linalg.inv(hessian[j:, j:])
        error = torch.where(stay[:, j], 0.0, work[:, j]) / inverse[0, 0]
        work[:, j:] -= error[:, None] * inverse[0]
        work[:, j] = torch.where(stay[:, j], work[:, j], 0.0)
    return work


@pytest.mark.parametrize("block", [4, 7, 128])
@pytest.mark.parametrize("budget", BUDGETS[:1] + BUDGETS[2:], ids=str)
def test_compensation_equals_the_sequential_inverse(block: int, budget: Budget) -> None:
    torch.manual_seed(2)
    rows = torch.randn(200, 16) @ torch.randn(16, 16)
    weight, products = torch.randn(6, 16), rows.T @ rows
    found = compensated(weight, products, budget, block=block, damping=0.01)
    expected = naive_obs(weight, products, found != 0, 0.01)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    zeros = int((found == 0).sum())
    per_row = budget.granularity is Granularity.ROW and budget.pattern is None
    assert zeros == (6 * drop_count(0.475, 16) if per_row else drop_count(budget.sparsity, 96))


def naive_obs_pattern(weight: Tensor, products: Tensor, pattern: Pattern, damping: float) -> Tensor:
    """The same, and each group of columns chosen from the weights that it has when reached."""
    work, hessian = weight.double().clone(), products.double().clone()
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian))
    for start in range(0, work.shape[1], pattern.m):
        # What removal costs here, if the columns of the group go in their order.
        pivots = [torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(start, start + pattern.m)]
        costs = work[:, start : start + pattern.m].square() / torch.stack(pivots)
        drop = costs.argsort(dim=1, stable=True)[:, : pattern.m - pattern.n]
        stay = torch.ones(work.shape, dtype=torch.bool)
        stay[:, start : start + pattern.m].scatter_(1, drop, value=False)
        for j in range(start, start + pattern.m):
            inverse = torch.linalg.inv(hessian[j:, j:])
            error = torch.where(stay[:, j], 0.0, work[:, j]) / inverse[0, 0]
            work[:, j:] -= error[:, None] * inverse[0]
            work[:, j] = torch.where(stay[:, j], work[:, j], 0.0)
    return work


@pytest.mark.parametrize("pattern", [Pattern(n=2, m=4), Pattern(n=4, m=8)], ids=str)
@pytest.mark.parametrize("block", [8, 128])
def test_groups_of_a_pattern_are_chosen_when_their_turn_comes(pattern: Pattern, block: int) -> None:
    torch.manual_seed(4)
    rows = torch.randn(300, 32) @ torch.randn(32, 32)
    weight, products = torch.randn(8, 32), rows.T @ rows
    budget = Budget(sparsity=0.5, pattern=pattern)
    found = compensated(weight, products, budget, block=block, damping=0.01)
    expected = naive_obs_pattern(weight, products, pattern, 0.01)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_norms_of_inputs_do_not_grow_with_their_number() -> None:
    rows, weight = torch.randn(40, 16), torch.randn(6, 16)
    once, twice = inputs_of(rows), inputs_of(rows.repeat(2, 1))
    torch.testing.assert_close(wanda_scores(weight, once), wanda_scores(weight, twice))


def test_a_hessian_without_an_inverse_is_told() -> None:
    with pytest.raises(InputError, match=r"damping=1e-30: .* expected more damping"):
        compensated(torch.ones(2, 4), torch.ones(4, 4), BUDGETS[0], block=4, damping=1e-30)


def test_compensation_loses_less_output_than_the_same_weights_zeroed() -> None:
    torch.manual_seed(3)
    rows = torch.randn(300, 32) @ torch.randn(32, 32)
    weight, budget = torch.randn(16, 32), Budget(sparsity=0.5)
    found = compensated(weight, rows.T @ rows, budget, block=8, damping=0.01)
    plain = torch.where(found != 0, weight, 0.0)
    magnitude = Magnitude().cut(weight, None, budget, RNG)

    def error(other: Tensor) -> float:
        return float(((weight - other) @ rows.T).square().sum())

    assert error(found) < 0.5 * error(plain)
    assert error(found) < 0.5 * error(magnitude)


def test_weights_whose_input_is_always_zero_go_first_and_the_count_stays_exact() -> None:
    rows = torch.randn(100, 8)
    rows[:, 3] = 0
    weight = torch.randn(4, 8)
    weight[:, 3] = 100
    few = compensated(weight, rows.T @ rows, Budget(sparsity=1 / 8), block=8, damping=0.01)
    assert torch.equal(few, torch.where(torch.arange(8) == 3, 0.0, weight))
    fewer = compensated(weight, rows.T @ rows, Budget(sparsity=0.0625), block=8, damping=0.01)
    assert int((fewer == 0).sum()) == 2


def test_timesteps_weigh_from_early_to_late_logarithmically() -> None:
    weights = Obs(early=1.2, late=0.8).timestep_weights(torch.tensor([0.0, 0.5, 1.0]))
    assert weights.tolist() == pytest.approx(
        [1.2, 1.2 - 0.4 * math.log(1 + 0.5 * (math.e - 1)), 0.8]
    )


def test_outliers_are_scores_far_above_their_blocks_mean() -> None:
    scores = {"a": torch.tensor([[1.0, 1.0], [1.0, 37.0]]), "b": torch.ones(1, 4)}
    assert outlier_share(scores, times=7) == 0  # the mean is 5.5
    assert outlier_share(scores, times=6) == 1 / 8
    assert outlier_share(scores, times=0.1) == 1.0


def test_owl_spans_what_it_says_and_keeps_the_whole() -> None:
    # As published: equal blocks, sparsities that span 2 x 0.08, the most outliers the least sparse.
    found = owl_sparsities([0.0, 0.02, 0.01], [10, 10, 10], sparsity=0.6, span=0.08)
    assert max(found) - min(found) == pytest.approx(0.16)
    assert found == pytest.approx([0.68, 0.52, 0.6])
    sizes = [10, 500, 90]
    found = owl_sparsities([0.03, 0.001, 0.02], sizes, sparsity=0.35, span=0.08)
    total = sum(size * share for size, share in zip(sizes, found, strict=True)) / sum(sizes)
    assert total == pytest.approx(0.35)


def test_owl_stays_within_the_possible() -> None:
    for sparsity in (0.01, 0.99):
        found = owl_sparsities([0.0, 1.0], [1, 3], sparsity=sparsity, span=0.08)
        assert all(0 <= share < 1 for share in found)
    assert owl_sparsities([0.5, 0.5], [1, 3], sparsity=0.4, span=0.08) == [0.4, 0.4]
