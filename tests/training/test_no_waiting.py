"""Between two logged steps nothing is read from the device: each such read would wait for it."""

from typing import Any

from diffusers.training_utils import EMAModel
from torch.optim.optimizer import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from bksdm.models.teacher import Teacher
from bksdm.surgery.plan import SMALL
from bksdm.training.distill import TERMS
from bksdm.training.optim import OptimizerSettings
from bksdm.training.step_losses import StepLosses
from tests.training.test_distill import batch, module

# As on a GPU: the optimiser that is not fused reads its own step count, which lies on the CPU.
FUSED = OptimizerSettings(
    lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, schedule="constant", warmup_steps=0,
    fused=True,
)  # fmt: skip


class Reads(TorchDispatchMode):
    """Notes what makes a number, or a shape, of a tensor's values."""

    names = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name = func.overloadpacket.__name__
        if name in self.names:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing(teacher: Teacher) -> None:
    distillation = module(teacher, SMALL, min_snr_gamma=5.0)
    optimizer, schedule = FUSED.build(distillation.student, max_steps=10)
    ema = EMAModel(distillation.student.parameters(), decay=0.99, foreach=True)
    losses, whole = StepLosses(TERMS), batch(teacher)
    assert isinstance(optimizer, Optimizer)
    with Reads() as reads:
        for step in range(2):
            made = distillation.training_step(whole, 0)
            made["loss"].backward()
            distillation.configure_gradient_clipping(optimizer)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            ema.step(distillation.student.parameters())
            losses.add(made["terms"])
            losses.finish(step=step, gradient_norm=distillation.gradient_norm)
        assert reads.found == []
        distillation.gradient_norm.item()
    assert reads.found == ["_local_scalar_dense"]
