"""A U-Net's answer to noisy latents, with the outputs of tapped modules: eager, or compiled with
the features inside the graph.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from bksdm.batch import NoisyBatch, Prediction
from bksdm.errors import InputError
from bksdm.models.features import tap

Predictor = Callable[[NoisyBatch], Prediction]


def predict(unet: UNet2DConditionModel, noisy: NoisyBatch, *, taps: Sequence[str]) -> Prediction:
    """Run a U-Net and return its output with the outputs of the tapped modules, in their order."""
    with tap(unet, taps) as seen:
        sample = unet(*_inputs(unet, noisy), return_dict=False)[0]
    return Prediction(sample, tuple(seen[name] for name in taps))


@contextmanager
def compiled(
    unet: UNet2DConditionModel, taps: Sequence[str], *, mode: str, backend: str = "inductor"
) -> Iterator[Predictor]:
    """The same as one compiled graph, of static shape, by a mode of torch.compile.

    The module and its state dict are left as they are, but for the taps, which stay while the block
    runs: a hook that comes and goes would be compiled anew each time.
    """
    seen: dict[str, Tensor] | None = None

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            del module, inputs
            if seen is not None:  # not in the second forward of gradient checkpointing
                seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def forward(*inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        nonlocal seen
        seen = {}
        sample = unet(*inputs, return_dict=False)[0]
        features = tuple(seen[name] for name in taps)
        seen = None
        return sample, features

    graph = torch.compile(forward, fullgraph=True, dynamic=False, mode=mode, backend=backend)

    def run(noisy: NoisyBatch) -> Prediction:
        try:
            return Prediction(*graph(*_inputs(unet, noisy)))
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            line = str(error).strip().splitlines()[0]
            raise InputError(
                f"speed.compile={mode} failed ({line}); it needs a C++ compiler, on a GPU triton;"
                " or use speed.compile=null"
            ) from error

    with ExitStack() as hooks:
        for name in taps:
            handle = unet.get_submodule(name).register_forward_hook(keep(name))
            hooks.callback(handle.remove)
        yield run


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """On the device; pinned first, as a copy from other memory waits for all earlier steps."""
    if device.type != "cuda":
        return drawn.to(device)
    return drawn.pin_memory().to(device, non_blocking=True)


def _inputs(unet: UNet2DConditionModel, noisy: NoisyBatch) -> tuple[Tensor, Tensor, Tensor]:
    dtype = next(unet.parameters()).dtype  # unet.dtype looks at every module
    return noisy.latents.to(dtype), noisy.timesteps, noisy.text.to(dtype)
