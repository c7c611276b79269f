"""A small resumable training loop, shared by the makers of the embedded world's networks."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

log = logging.getLogger("assets")
SAVE_EVERY_SECONDS = 60


def fit(
    model: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    lr: float,
    state: Path,
    ema_decay: float = 0.0,
) -> nn.Module:
    """Minimise `loss` over `model` with AdamW and a cosine schedule; returns the averaged model
    when `ema_decay` > 0.

    `loss` draws everything random from the generator it is given, which is seeded by the step: a
    run that was killed goes on from `state` as if it had not been. Under torchrun each process
    draws its own batch and gradients are averaged.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = get_scheduler(
        "cosine", optimizer, num_warmup_steps=min(200, steps // 10), num_training_steps=steps
    )
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema_decay)
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "average": average}
    first = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        first = saved.pop("step")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        log.info("%s: resumed at step %d", state.stem, first)

    model.train()
    begin = saved_at = time.monotonic()
    for step in range(first, steps):
        value = loss(torch.Generator().manual_seed(step * world + rank))
        optimizer.zero_grad()
        value.backward()
        _average_gradients(model, world)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        now = time.monotonic()
        if rank:
            continue
        if step % 100 == 0:
            rate = (step + 1 - first) / (now - begin)
            log.info(
                "%s: step %d/%d, loss %.4f, %.2f steps/s",
                state.stem,
                step,
                steps,
                value.item(),
                rate,
            )
        if now - saved_at > SAVE_EVERY_SECONDS or step + 1 == steps:
            temporary = state.with_suffix(".tmp")
            torch.save(
                {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1},
                temporary,
            )
            temporary.replace(state)
            saved_at = now
    return (average.module if ema_decay else model).eval()


def _average_gradients(model: nn.Module, world: int) -> None:
    if world > 1:
        gradients = [
            parameter.grad for parameter in model.parameters() if parameter.grad is not None
        ]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, mean in zip(
            gradients, (flat / world).split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))
