"""Sums and rows over all processes of a training, in the middle of a step."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def summed(tensor: Tensor) -> Tensor:
    """The sum over the processes; carries no gradient."""
    tensor = tensor.detach().clone()
    if _many():
        dist.all_reduce(tensor)
    return tensor


def gathered(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes, by rank, with their gradients. All processes must have as
    many.

    DistributedDataParallel averages gradients over processes that have all computed the same loss
    of all rows: so each row's gradient is the sum over the processes.
    """
    if not _many():
        return rows
    found: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return found


def all_rows(rows: Tensor) -> Tensor:
    """The same without gradients; processes may have different numbers of rows (B, ...), as in
    validation.
    """
    if not _many():
        return rows
    world = dist.get_world_size()
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world)]
    dist.all_gather(counts, torch.full_like(counts[0], len(rows)))
    most = max(map(int, counts))
    padded = torch.cat([rows.detach(), rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def _many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """all_gather, whose backward adds up what the processes say of this one's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Autograd's hook."""
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Autograd's hook."""
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        start = dist.get_rank() * ctx.count
        return whole[start : start + ctx.count]
