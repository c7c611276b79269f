"""That a U-Net came back from a folder as it was in memory: in weights, and in what it answers."""

import torch
from diffusers import UNet2DConditionModel


@torch.no_grad()
def compare(student: UNet2DConditionModel, reloaded: UNet2DConditionModel) -> None:
    """Raise unless both have equal weights and equal outputs on one random input."""
    weights, others = student.state_dict(), reloaded.state_dict()
    if weights.keys() != others.keys() or not all(
        torch.equal(w.cpu(), others[n]) for n, w in weights.items()
    ):
        raise RuntimeError("the exported U-Net does not reload with the weights that were trained")
    for parameter in reloaded.parameters():
        # Weights mapped from a file may lie unaligned, where CPU kernels round otherwise.
        parameter.data = parameter.data.clone()
    reloaded.to(student.device)
    same_answers(
        student, reloaded, "the exported U-Net does not answer as the one that was trained"
    )


@torch.no_grad()
def same_answers(
    one: UNet2DConditionModel, other: UNet2DConditionModel, told: str, *, error: float = 0
) -> None:
    """Raise unless both answer one random input alike, to `error` of the largest value."""
    size, rng = one.config.sample_size, torch.Generator().manual_seed(0)
    latents = torch.randn(1, one.config.in_channels, size, size, generator=rng)
    text = torch.randn(1, 8, one.config.cross_attention_dim, generator=rng)
    training = one.training
    outputs = [
        model.eval()(
            latents.to(model.device),
            torch.tensor([500], device=model.device),
            text.to(model.device),
        ).sample
        for model in (one, other)
    ]
    one.train(training)
    wanted, found = outputs
    if not (found - wanted).abs().max() <= error * wanted.abs().max():
        raise RuntimeError(told)
