"""The U-Nets of a mixture behind one that answers for them: each row of a batch by its own expert,
with as many experts in memory as are wanted.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from bksdm import expected


class MixtureUnet(nn.Module):
    """Stands where a pipeline has its U-Net. Experts are read when they are first asked, and the
    one that was asked longest ago goes when there is no room.

    Args:
        config: the experts' common config.
        load: reads an expert by its number, in fp32 on the CPU.
        in_memory: experts at once, at least 1.
        typical: the expert that stands for all where one call of a U-Net is timed.
    """

    place: Tensor

    def __init__(
        self,
        config: Any,
        load: Callable[[int], UNet2DConditionModel],
        *,
        in_memory: int,
        typical: int = 0,
    ) -> None:
        super().__init__()
        expected.count("in_memory", in_memory, least=1)
        self.config = config
        self.in_memory = in_memory
        self.typical = typical
        # Where experts go, and in which precision: moves and casts with the pipeline.
        self.register_buffer("place", torch.zeros(()), persistent=False)
        self._load = load
        # Out of sight of nn.Module: they come and go, and follow `place` when they are asked.
        self._experts: OrderedDict[int, UNet2DConditionModel] = OrderedDict()
        self._routes: tuple[int, ...] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the experts' weights."""
        return self.place.dtype

    @property
    def device(self) -> torch.device:
        """Where experts are asked."""
        return self.place.device

    @property
    def loaded(self) -> tuple[int, ...]:
        """Experts in memory, the one that was asked last in the end."""
        return tuple(self._experts)

    def expert(self, number: int) -> UNet2DConditionModel:
        """An expert, on the device; read if it is not in memory.

        Raises:
            InputError: it is not there.
        """
        if number in self._experts:
            self._experts.move_to_end(number)
        else:
            while len(self._experts) >= self.in_memory:
                self._experts.popitem(last=False)
            self._experts[number] = self._load(number).eval().requires_grad_(requires_grad=False)
        unet = self._experts[number]
        weight = next(unet.parameters())  # unet.device and unet.dtype look at every module
        if (weight.device, weight.dtype) != (self.device, self.dtype):
            unet.to(self.device, self.dtype)
        return unet

    @contextmanager
    def taking(self, routes: Sequence[int]) -> Iterator[None]:
        """Inside the block row i of a batch is answered by expert `routes[i]`; a batch of a
        multiple of rows repeats them, as classifier-free guidance does.
        """
        before, self._routes = self._routes, tuple(routes)
        try:
            yield
        finally:
            self._routes = before

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *,
        return_dict: bool = True,
        **more: Any,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """As the stock U-Net: (B, C, h, w), inside `taking`.

        Raises:
            RuntimeError: nobody has said which expert answers, or for another number of rows.
        """
        rows = len(sample)
        if not self._routes or rows % len(self._routes):
            raise RuntimeError(
                f"a mixture was asked {rows} rows with the experts of"
                f" {len(self._routes or ())} prompts; ask inside `taking`, or call the pipeline"
            )
        numbers = dict.fromkeys(self._routes)
        if len(numbers) == 1:  # as the pipeline asks: nothing is copied
            answer = self.expert(next(iter(numbers)))(
                sample, timestep, encoder_hidden_states, return_dict=False, **more
            )[0]
            return UNet2DConditionOutput(sample=answer) if return_dict else (answer,)
        of = torch.tensor(self._routes).repeat(rows // len(self._routes))
        answer = torch.empty_like(sample)
        for number in numbers:
            mine = (of == number).nonzero()[:, 0].to(sample.device)
            each = isinstance(timestep, Tensor) and timestep.ndim == 1 and len(timestep) == rows
            answer[mine] = self.expert(number)(
                sample[mine],
                timestep[mine] if isinstance(timestep, Tensor) and each else timestep,
                encoder_hidden_states[mine],
                return_dict=False,
                **more,
            )[0]
        return UNet2DConditionOutput(sample=answer) if return_dict else (answer,)
