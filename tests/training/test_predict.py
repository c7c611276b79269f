"""Eager and compiled answers are the same, features included."""

import pytest
import torch
from torch._dynamo.utils import counters

from bksdm.batch import NoisyBatch
from bksdm.models.teacher import Teacher
from bksdm.surgery.blocks import feature_pairs, remove_blocks
from bksdm.surgery.plan import SMALL, TINY, BlockPlan
from bksdm.training.predict import compiled, predict


def noisy(teacher: Teacher) -> NoisyBatch:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 16, teacher.unet.config.cross_attention_dim, generator=generator)
    return NoisyBatch(
        latents=latents,
        timesteps=torch.tensor([1, 900]),
        text=text,
        target=latents,
        weights=torch.ones(2),
    )


@pytest.mark.parametrize(("plan", "checkpointing"), [(SMALL, "off"), (TINY, "on")])
def test_a_compiled_student_is_one_graph_with_the_same_features_and_gradients(
    teacher: Teacher, plan: BlockPlan, checkpointing: str
) -> None:
    student = remove_blocks(teacher.unet, plan=plan).train()
    if checkpointing == "on":
        student.enable_gradient_checkpointing()
    taps = [name for _, name in feature_pairs(plan, teacher.unet.config)]
    inputs, names = noisy(teacher), list(student.state_dict())
    torch._dynamo.reset()
    counters.clear()

    def gradients(prediction: object) -> list[torch.Tensor]:
        student.zero_grad()
        (prediction.sample.sum() + sum(f.square().sum() for f in prediction.features)).backward()
        return [parameter.grad.clone() for parameter in student.parameters()]

    expected = predict(student, inputs, taps=taps)
    wanted = gradients(expected)
    with compiled(student, taps, mode="default", backend="aot_eager") as run:
        for _ in range(3):
            found = run(inputs)
            for a, b in zip(found.features, expected.features, strict=True):
                torch.testing.assert_close(a, b)
            for a, b in zip(gradients(found), wanted, strict=True):
                torch.testing.assert_close(a, b)
        assert list(student.state_dict()) == names
        # Validation is eager in between, and must not disturb the graph's taps.
        torch.testing.assert_close(predict(student, inputs, taps=taps).sample, expected.sample)
    assert counters["stats"]["unique_graphs"] == 1
    assert not any(module._forward_hooks for module in student.modules())
