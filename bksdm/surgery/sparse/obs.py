"""Optimal brain surgeon with a fixed order of columns (SparseGPT, arXiv 2301.00774).

The layer's error ||W X - W' X||^2 has the Hessian H = X X'. Columns are decided from left to right;
what a column loses, the columns after it make up for: with U the upper Cholesky factor of H^-1,
removing w_j costs (w_j / U_jj)^2 and changes the rest by -(w_j / U_jj) U_j,:  (their equations 3-5
and algorithm 1).

R outputs, C columns.
"""

import torch
from torch import Tensor

from bksdm.errors import InputError
from bksdm.surgery.sparse.budget import Budget, Granularity, drop_count, kept, kept_of_tensor


def compensated(
    weight: Tensor, products: Tensor, budget: Budget, *, block: int, damping: float
) -> Tensor:
    """The matrix (R, C) with zeros in it, and its other weights moved so that outputs change least.

    Args:
        weight: (R, C).
        products: X X', (C, C), up to a factor. Weights whose input is always zero go first: they
            make no difference.
        budget: what must go, exactly.
        block: columns among which it is chosen.
        damping: added to the diagonal, relative to its mean.
    """
    hessian = products.to(torch.float64, copy=True)
    work = weight.double().clone()
    dead = hessian.diagonal() == 0
    factor = _factor(hessian, dead, damping)
    if budget.pattern is not None:
        block += -block % budget.pattern.m
    gone = 0
    for start in range(0, work.shape[1], block):
        stop = min(start + block, work.shape[1])
        columns, pivots = work[:, start:stop], factor.diagonal()[start:stop]
        stay, gone = _stay(_costs(columns, pivots, dead[start:stop]), budget, stop, gone)
        errors = torch.empty_like(columns)
        for i in range(stop - start):
            if budget.pattern is not None and i % budget.pattern.m == 0:
                # A group is chosen when its turn comes: what went before it has changed it.
                group = slice(i, i + budget.pattern.m)
                costs = _costs(columns[:, group], pivots[group], dead[start:stop][group])
                stay[:, group] = budget.kept(costs.float())
            column = columns[:, i]
            error = column.where(~stay[:, i], 0) / pivots[i]
            columns[:, i:] -= error[:, None] * factor[start + i, start + i : stop]
            columns[:, i].masked_fill_(~stay[:, i], 0)  # exactly: the line before may leave 1e-17
            errors[:, i] = error
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    return work.to(weight.dtype)


def _costs(columns: Tensor, pivots: Tensor, dead: Tensor) -> Tensor:
    """What it costs to remove each weight of some columns, (R, C); nothing in a dead one."""
    return (columns / pivots).square().masked_fill(dead, 0)


def _stay(scores: Tensor, budget: Budget, stop: int, gone: int) -> tuple[Tensor, int]:
    """(what stays of a block, what has gone so far). A block's share is what is due up to its end,
    so that the whole comes out exact. With a pattern nothing is decided for a whole block.
    """
    rows, width = scores.shape
    if budget.pattern is not None:
        return torch.ones_like(scores, dtype=torch.bool), gone
    if budget.granularity is Granularity.ROW:
        due = drop_count(budget.sparsity, stop) - drop_count(budget.sparsity, stop - width)
        return kept(scores, due), gone
    due = drop_count(budget.sparsity, rows * stop)
    return kept_of_tensor(scores.float(), due - gone), due


def _factor(hessian: Tensor, dead: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse Hessian, (C, C). The Hessian is used up: there is room
    for few of its kind.

    Raises:
        InputError: it is not positive definite.
    """
    hessian.diagonal()[dead] = 1
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    try:
        lower = torch.linalg.cholesky(hessian, out=hessian)
        inverse = torch.cholesky_inverse(lower)
        factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise InputError(
            f"criterion.damping={damping}: a layer's inputs leave its Hessian without an inverse;"
            " expected more damping, such as 0.1, or more calibration prompts"
        ) from error
    return factor
