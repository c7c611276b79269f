"""The reference recipe as a plain PyTorch loop, written from its description: what BK-SDM's own
training does in a step, with the same networks, losses and pictures as ours.

Per micro-batch: pictures through the VAE, captions through the text encoder, noise drawn on the
device, the teacher, the student with gradient checkpointing, features from hooks, and a host
synchronisation for each loss twice (gathered for the log, shown in the bar). Then torch's default
AdamW (not fused) and diffusers' EMA, both as they come.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from bksdm.batch import TextImageBatch
from bksdm.models.teacher import Teacher


def reference_loop(
    teacher: Teacher,
    student: UNet2DConditionModel,
    batches: Iterable[TextImageBatch],
    *,
    pairs: Sequence[tuple[str, str]],
    mixed: bool,
) -> Iterator[None]:
    """One training step each time it is asked; teacher and student lie where they should run.

    Args:
        teacher: frozen; with `mixed` it is in half precision, as in the reference.
        student: trained in float32.
        batches: of pictures.
        pairs: (teacher module, student module) whose outputs are compared.
        mixed: float16 autocast with loss scaling.
    """
    device = student.device
    student.train().enable_gradient_checkpointing()
    schedule = DDPMScheduler.from_config(teacher.scheduler.config)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-5, weight_decay=1e-2)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    average = EMAModel(student.parameters())
    scaler = torch.amp.GradScaler(device.type, enabled=mixed)
    seen: dict[str, dict[str, Tensor]] = {"teacher": {}, "student": {}}
    for kind, unet in (("teacher", teacher.unet), ("student", student)):
        for pair in pairs:
            name = pair[kind == "student"]
            unet.get_submodule(name).register_forward_hook(_keep(seen[kind], name))
    for batch in batches:
        pixels, tokens = batch.pixels.to(device), batch.tokens.to(device)  # type: ignore[union-attr]
        with torch.no_grad():
            latents = teacher.vae.encode(pixels.to(teacher.vae.dtype)).latent_dist.sample()
            latents = latents * teacher.vae.config.scaling_factor
            text = teacher.text_encoder(tokens)[0]
        noise = torch.randn_like(latents)
        steps = torch.randint(1000, (len(batch),), device=device)
        noisy = schedule.add_noise(latents, noise, steps)
        target = noise
        if schedule.config.prediction_type == "v_prediction":
            target = schedule.get_velocity(latents, noise, steps)
        with torch.no_grad():
            taught = teacher.unet(noisy, steps, text).sample
        with torch.autocast(device.type, torch.float16, enabled=mixed):
            guess = student(noisy, steps, text).sample
        task = F.mse_loss(guess.float(), target.float())
        output = F.mse_loss(guess.float(), taught.float())
        features = sum(
            F.mse_loss(seen["student"][ours].float(), seen["teacher"][theirs].float())
            for theirs, ours in pairs
        )
        assert isinstance(features, Tensor)
        total = task + output + features
        logged = [term.detach().repeat(len(batch)).mean().item()
                  for term in (task, output, features, total)]  # fmt: skip
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        constant.step()
        optimizer.zero_grad()
        average.step(student.parameters())
        shown = [term.detach().item() for term in (task, output, features, total)]
        assert len(logged) == len(shown)
        yield


def _keep(seen: dict[str, Tensor], name: str):  # type: ignore[no-untyped-def]
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        del module, inputs
        seen[name] = output[0] if isinstance(output, tuple) else output  # type: ignore[assignment]

    return hook
