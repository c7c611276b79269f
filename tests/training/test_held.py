"""Zeros that stay zero, and a student that reads with its own text encoder."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bksdm.batch import NoisyBatch, Prediction
from bksdm.models.teacher import Teacher
from bksdm.surgery.blocks import feature_pairs
from bksdm.surgery.plan import SMALL, BlockPlan
from bksdm.training.beginning import Beginning, find_ancestor
from bksdm.training.distill import Distillation
from bksdm.training.ema import Ema
from bksdm.training.held import HeldZeros
from bksdm.training.rehearsal import Rehearsal
from bksdm.training.speed import SpeedSettings
from tests.pruned import prune
from tests.training.test_distill import ADAMW, LossWeights, batch

WHOLE = BlockPlan(down=((0, 1),) * 4, mid=True)
DECAYING = replace(ADAMW, weight_decay=0.1)


@pytest.fixture
def teacher_folder(sd1_folder: Path) -> Path:
    """Of one kind alone."""
    return sd1_folder


@pytest.fixture
def pruned(teacher_folder: Path, tmp_path: Path) -> Path:
    prune(teacher_folder, tmp_path / "pruned")
    return tmp_path / "pruned"


def module(teacher: Teacher, begun: Beginning, plan: BlockPlan, **changes: object) -> Distillation:
    settings = {"masks": begun.masks, "text_encoder": begun.text_encoder, "gradient_clip": 0.1}
    return Distillation(
        copy.deepcopy(begun.unet),
        teacher,
        pairs=feature_pairs(plan, teacher.unet.config),
        weights=LossWeights(task=1, output_kd=1, feature_kd=1),
        optimizer=DECAYING,
        **settings | changes,  # type: ignore[arg-type]
    )


def rehearsed(distillation: Distillation, *, steps: int = 4) -> Rehearsal:
    """After optimiser steps of two micro-batches, with weight decay and clipping."""
    rehearsal = Rehearsal(distillation, precision="32-true", ema_decay=0.9, max_steps=steps)
    for _ in range(steps):
        rehearsal.step([batch(distillation.teacher)] * 2)
    return rehearsal


@pytest.mark.parametrize("plan", [WHOLE, SMALL])
def test_zeros_stay_zero_and_everything_else_is_trained(
    teacher: Teacher, pruned: Path, plan: BlockPlan
) -> None:
    begun = find_ancestor(str(pruned)).beginning(teacher, plan)
    before = begun.unet.state_dict()
    rehearsal = rehearsed(module(teacher, begun, plan))
    weights = dict(rehearsal.module.student.named_parameters())
    average = dict(zip(weights, rehearsal.ema.shadow_params, strict=True))
    assert begun.masks
    for name, keep in begun.masks.items():
        state = rehearsal.optimizer.state[weights[name]]
        for tensor in (weights[name], average[name], state["exp_avg"], state["exp_avg_sq"]):
            assert not tensor[~keep].any()
        assert (weights[name] != before[name])[keep].any(), name
    free = [name for name in weights if name not in begun.masks]
    assert sum((weights[name] != before[name]).any().item() for name in free) > 0.9 * len(free)


def test_without_masks_they_do_not(teacher: Teacher, pruned: Path) -> None:
    begun = find_ancestor(str(pruned)).beginning(teacher, WHOLE)
    student = rehearsed(module(teacher, begun, WHOLE, masks={}), steps=1).module.student
    weights = student.state_dict()
    lost = [bool(weights[name][~keep].any()) for name, keep in begun.masks.items()]
    assert sum(lost) > 0.9 * len(lost)  # attention over a single position has no gradient


def test_the_clipped_norm_does_not_count_what_is_held(teacher: Teacher, pruned: Path) -> None:
    begun = find_ancestor(str(pruned)).beginning(teacher, SMALL)
    rehearsal = rehearsed(module(teacher, begun, SMALL), steps=1)
    grads = [each.grad for each in rehearsal.module.student.parameters() if each.grad is not None]
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    assert norm.item() == pytest.approx(0.1, rel=1e-3)


def test_a_lost_zero_is_told(teacher: Teacher, pruned: Path) -> None:
    begun = find_ancestor(str(pruned)).beginning(teacher, SMALL)
    distillation, callback = module(teacher, begun, SMALL), HeldZeros(Ema(decay=0.9))
    callback.on_train_start(None, distillation)  # type: ignore[arg-type]
    callback.on_train_end(None, distillation)  # type: ignore[arg-type]
    name, keep = next(iter(begun.masks.items()))
    with torch.no_grad():
        distillation.student.get_parameter(name)[~keep] = 1e-30
    with pytest.raises(RuntimeError, match=f"1 tensors of the weights have lost.* {name}"):
        callback.on_save_checkpoint(None, distillation, {})  # type: ignore[arg-type]


def test_teacher_and_student_read_with_their_own_text_encoders(
    teacher: Teacher, pruned: Path
) -> None:
    begun = find_ancestor(str(pruned)).beginning(teacher, WHOLE)
    assert begun.text_encoder is not None
    distillation = module(teacher, begun, WHOLE)
    seen: dict[str, NoisyBatch] = {}

    def spy(name: str) -> object:
        ask = getattr(distillation, name)

        def asked(noisy: NoisyBatch) -> Prediction:
            seen[name] = noisy
            return ask(noisy)

        return asked

    for name in ("_ask_teacher", "_ask_student"):
        setattr(distillation, name, spy(name))
    asked = batch(teacher)
    dense = teacher.text_encoder(input_ids=asked.tokens).last_hidden_state
    own = begun.text_encoder(input_ids=asked.tokens).last_hidden_state
    assert not torch.allclose(dense, own)
    cached = replace(asked, text=dense.half())
    for each, states in ((asked, dense), (cached, dense.half().float())):
        distillation.terms(each)
        assert torch.equal(seen["_ask_teacher"].text, states)
        assert torch.equal(seen["_ask_student"].text, own)
    assert not any(name.startswith("text") for name in distillation.state_dict())
    assert len(distillation.state_dict()) == len(begun.unet.state_dict())
    assert not any(each.requires_grad for each in begun.text_encoder.parameters())


def test_frozen_networks_take_the_teachers_precision(teacher: Teacher, pruned: Path) -> None:
    begun = find_ancestor(str(pruned)).beginning(teacher, SMALL)
    speed = SpeedSettings(teacher_precision="bfloat16")
    distillation = module(teacher, begun, SMALL, speed=speed)
    distillation.prepare(torch.device("cpu"))
    own = distillation.own_text
    assert own is not None
    assert own.dtype == distillation.teacher.text_encoder.dtype == torch.bfloat16
    assert distillation.around.vae is distillation.teacher.vae
    assert teacher.text_encoder.dtype == torch.float32


def test_a_dense_text_encoder_is_the_teachers(
    teacher: Teacher, teacher_folder: Path, tmp_path: Path
) -> None:
    prune(teacher_folder, tmp_path / "pruned", ["unet"])
    begun = find_ancestor(str(tmp_path / "pruned")).beginning(teacher, SMALL)
    assert begun.text_encoder is None
    distillation = module(teacher, begun, SMALL)
    assert distillation.around is teacher
    noisy = distillation.noise(batch(teacher))
    assert distillation.as_student_reads(noisy, batch(teacher)) is noisy
