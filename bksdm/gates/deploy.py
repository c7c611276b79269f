"""From trained codes to architectures: shares that are even, and gates of 0 and 1 that cost what
they should. Pure functions.
"""

from typing import Final

import torch
from torch import Tensor

from bksdm.gates.budget import Budget
from bksdm.gates.relax import hardened
from bksdm.gates.router import Router
from bksdm.surgery.sites import Sites

_STAGES: Final = 12  # of annealing
_ROUNDS: Final = 25  # in each


def even_offsets(scores: Tensor, counts: Tensor) -> Tensor:
    """What to add to each code's scores so that the nearest code is each of them about as often.

    Sinkhorn's potentials of the whole data set, with an entropy that is brought down from the
    scores' own spread to a thousandth of it, where shares are nearly those of the nearest code.
    What one prompt is routed to then depends on no other prompt.

    Args:
        scores: (U, N) of different prompts.
        counts: (U,), samples of each.

    Returns:
        (N,), float64; zeros where all codes look the same.
    """
    scores, weights = scores.double(), counts.double() / counts.sum()
    offsets = scores.new_zeros(scores.shape[1])
    spread = float((scores.amax(1) - scores.amin(1)).mean())
    if spread == 0:
        return offsets
    for epsilon in torch.logspace(0, -3, _STAGES).tolist():
        for _ in range(_ROUNDS):
            shares = weights @ torch.softmax((scores + offsets) / (epsilon * spread), 1)
            offsets -= epsilon * spread * (shares.clamp(min=1e-9) * len(offsets)).log()
    return offsets - offsets.mean()


def own_gates(router: Router) -> Tensor:
    """(N, D) of 0 and 1: what each code has above 1/2, without noise."""
    return hardened(router.gates(router.codes), router.sites).detach()


def mean_macs(gates: Tensor, shares: Tensor, budget: Budget) -> float:
    """MACs of codes (N, D), averaged over the prompts, of which each has a share (N,)."""
    return float(shares.double() @ budget.macs(gates))


def fitted_gates(margins: Tensor, shares: Tensor, budget: Budget, *, target: float) -> Tensor:
    """(N, D) of 0 and 1 whose mean MACs are at most `target`, and as near as a unit allows.

    One threshold goes down over all gates of all codes, in the order of their margins, while the
    mean fits; then single units below it are opened in the same order where they still do. Of each
    width site the code's best unit is always open. Depth gates keep their order, as their margins
    do.

    Args:
        margins: (N, D), the more, the sooner a gate is open.
        shares: (N,), of the prompts; sum 1.
        budget: MACs of gates.
        target: MACs.

    Raises:
        ValueError: not even the smallest codes fit.
    """
    margins, shares = margins.detach().double().cpu(), shares.double().cpu()
    levels = torch.unique(margins).flip(0)
    best = _best_units(margins, budget.sites)

    def gates(level: int) -> Tensor:
        """With the `level` highest margins open."""
        if level == len(levels):
            return torch.ones_like(margins)
        chosen: Tensor = (margins > levels[level]) | best
        return chosen.double()

    def fits(level: int) -> bool:
        return mean_macs(gates(level), shares, budget) <= target * (1 + 1e-9)  # of rounding

    if not fits(0):
        raise ValueError(f"no codes cost as little as {target:g} MACs")
    low, high = 0, len(levels) + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return _filled(gates(low), margins, shares, budget, target=target)


def _best_units(margins: Tensor, sites: Sites) -> Tensor:
    best = torch.zeros_like(margins, dtype=torch.bool)
    for where in sites.slices.values():
        best[torch.arange(len(best)), where.start + margins[:, where].argmax(1)] = True
    return best


def _filled(
    gates: Tensor, margins: Tensor, shares: Tensor, budget: Budget, *, target: float
) -> Tensor:
    """With more units open where they fit: MACs are linear in units whose module stays."""
    sites = budget.sites
    above = torch.cat([gates, gates.new_ones(len(gates), 1)], 1)[:, sites.depth_of_units]
    costs = shares[:, None] * budget.unit.cpu() * above
    closed = (gates[:, : sites.units] == 0) & (costs > 0)
    codes, units = closed.nonzero(as_tuple=True)
    order = margins[codes, units].argsort(descending=True, stable=True)
    slack = target - mean_macs(gates, shares, budget)
    for code, unit in zip(codes[order].tolist(), units[order].tolist(), strict=True):
        cost = float(costs[code, unit])
        if cost <= slack:
            gates[code, unit] = 1
            slack -= cost
    return gates


def ranked_gates(scores: Tensor, budget: Budget, *, target: float) -> Tensor:
    """(D,) of 0 and 1 of one architecture that keeps the units of the highest scores (units,), and
    all modules, at as nearly `target` MACs as a unit allows.

    Raises:
        ValueError: not even one unit a site is as cheap.
    """
    whole = torch.full((len(budget.sites.depth),), torch.inf)
    margins = torch.cat([scores.double().cpu(), whole.double()])[None]
    return fitted_gates(margins, torch.ones(1), budget, target=target)[0]
