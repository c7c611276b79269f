from pathlib import Path

import pytest
import torch

from bksdm.batch import TextImageBatch
from bksdm.losses.distill import LossTerms, LossWeights
from bksdm.models.teacher import Teacher
from bksdm.surgery.blocks import feature_pairs, remove_blocks
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan
from bksdm.training.distill import Distillation
from bksdm.training.optim import OptimizerSettings
from bksdm.training.predict import predict
from bksdm.training.speed import SpeedSettings

SAVING = SpeedSettings(gradient_checkpointing=True)
ADAMW = OptimizerSettings(
    lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, schedule="constant", warmup_steps=0
)


def module(teacher: Teacher, plan: BlockPlan, **changes: object) -> Distillation:
    return Distillation(
        remove_blocks(teacher.unet, plan=plan),
        teacher,
        pairs=feature_pairs(plan, teacher.unet.config),
        weights=LossWeights(task=1, output_kd=1, feature_kd=1),
        optimizer=ADAMW,
        **changes,  # type: ignore[arg-type]
    )


def batch(teacher: Teacher, size: int = 3) -> TextImageBatch:
    rng = torch.Generator().manual_seed(0)
    tokens = teacher.tokenizer(
        ["a big red circle"] * size, padding="max_length", return_tensors="pt"
    ).input_ids
    return TextImageBatch(
        pixels=torch.rand(size, 3, 16, 16, generator=rng) * 2 - 1,
        tokens=tokens,
        seeds=torch.arange(size) + 7,
    )


def gradients(distillation: Distillation, terms: LossTerms) -> dict[str, torch.Tensor]:
    terms.feature_kd.backward()
    return {
        name: p.grad.clone()
        for name, p in distillation.student.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("plan", [BASE, SMALL, TINY])
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_every_tapped_feature_carries_a_gradient(
    teacher: Teacher, plan: BlockPlan, checkpointing: str
) -> None:
    """The reference's Tiny taps inside a checkpointed transformer: no gradient there."""
    speed = SAVING if checkpointing == "on" else SpeedSettings()
    distillation = module(teacher, plan, speed=speed)
    prediction = predict(
        distillation.student, distillation.noise(batch(teacher)), taps=distillation.student_taps
    )
    weights = list(distillation.student.parameters())
    for feature in prediction.features:
        grads = torch.autograd.grad(
            feature.square().sum(), weights, retain_graph=True, allow_unused=True
        )
        assert any(grad is not None and grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("plan", [SMALL, TINY])
def test_gradient_checkpointing_changes_no_gradient(teacher: Teacher, plan: BlockPlan) -> None:
    plain, saving = module(teacher, plan), module(teacher, plan, speed=SAVING)
    expected, found = (gradients(m, m.terms(batch(teacher))) for m in (plain, saving))
    assert expected.keys() == found.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, msg=lambda text, name=name: f"{name}: {text}")


def test_the_teacher_is_in_no_parameters_and_no_state_dict(teacher: Teacher) -> None:
    distillation = module(teacher, SMALL)
    student = {id(parameter) for parameter in distillation.student.parameters()}
    assert {id(parameter) for parameter in distillation.parameters()} == student
    assert all(name.startswith("student.") for name in distillation.state_dict())
    assert len(distillation.state_dict()) == len(distillation.student.state_dict())


def test_a_step_trains_the_student_and_leaves_the_teacher(teacher: Teacher) -> None:
    distillation = module(teacher, SMALL)
    frozen = {name: tensor.clone() for name, tensor in teacher.unet.state_dict().items()}
    optimizer, _ = ADAMW.build(distillation.student, max_steps=10)
    losses = []
    for _ in range(8):
        total = distillation.terms(batch(teacher)).total(distillation.weights)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(
        torch.equal(tensor, frozen[name]) for name, tensor in teacher.unet.state_dict().items()
    )
    assert not teacher.unet.training


def test_a_student_that_keeps_everything_has_no_distillation_error(teacher: Teacher) -> None:
    terms = module(teacher, BlockPlan(down=((0, 1),) * 4, mid=True)).terms(batch(teacher))
    assert terms.output_kd.item() == pytest.approx(0, abs=1e-10)
    assert terms.feature_kd.item() == pytest.approx(0, abs=1e-8)
    assert terms.task.item() > 0


def test_the_loss_of_a_sample_does_not_depend_on_its_batch(teacher: Teacher) -> None:
    distillation = module(teacher, SMALL)
    whole = batch(teacher)
    alone = [
        distillation.terms(
            TextImageBatch(
                pixels=whole.pixels[i : i + 1],
                tokens=whole.tokens[i : i + 1],
                seeds=whole.seeds[i : i + 1],
            )
        )
        for i in range(3)
    ]
    for name, value in vars(distillation.terms(whole)).items():
        torch.testing.assert_close(
            torch.stack([getattr(terms, name) for terms in alone]).mean(), value
        )


def test_two_teachers_of_both_kinds_predict_what_their_scheduler_says(
    teacher: Teacher, teacher_folder: Path
) -> None:
    expected = "v_prediction" if "sd2" in str(teacher_folder) else "epsilon"
    assert module(teacher, SMALL).diffusion.prediction_type == expected
