import pytest
import torch

from bksdm.errors import InputError
from bksdm.models.teacher import Teacher
from bksdm.surgery.plan import SMALL
from bksdm.training.speed import SpeedSettings
from tests.training.test_distill import batch, module

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (SpeedSettings(channels_last=True), 1e-5),
        (SpeedSettings(gradient_checkpointing=True), 0),
        (SpeedSettings(attention="math"), 1e-5),
        (SpeedSettings(attention="flash"), 1e-5),
        (SpeedSettings(teacher_precision="bfloat16"), 0.05),
        (SpeedSettings(teacher_precision="bfloat16", channels_last=True), 0.05),
    ],
)
def test_a_switch_changes_no_loss(
    teacher: Teacher, settings: SpeedSettings, tolerance: float
) -> None:
    plain = module(teacher, SMALL)
    expected = plain.terms(batch(teacher)).total(plain.weights).item()
    fast = module(teacher, SMALL, speed=settings)
    fast.prepare(CPU)
    with settings.kernels():
        found = fast.terms(batch(teacher)).total(fast.weights)
        found.backward()
    assert found.item() == pytest.approx(expected, rel=max(tolerance, 1e-6))
    assert all(parameter.grad is not None for parameter in fast.student.parameters())


def test_autocast_around_a_bfloat16_teacher(teacher: Teacher) -> None:
    plain = module(teacher, SMALL)
    expected = plain.terms(batch(teacher)).total(plain.weights).item()
    fast = module(teacher, SMALL, speed=SpeedSettings(teacher_precision="bfloat16"))
    fast.prepare(CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = fast.terms(batch(teacher))
        total = terms.total(fast.weights)
    assert total.dtype is torch.float32  # losses are added up in float32
    assert total.item() == pytest.approx(expected, rel=0.05)
    assert {parameter.dtype for parameter in fast.student.parameters()} == {torch.float32}


@pytest.mark.parametrize(("mode", "graphs"), [("reduce-overhead", 1), ("default", 0)])
def test_teacher_and_student_are_one_step_of_cuda_graphs(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch, mode: str, graphs: int
) -> None:
    """Else the student's graph would begin a new one, and free what the teacher has answered."""
    marks: list[str] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append("step"))
    settings = SpeedSettings(compile=mode)
    module(teacher, SMALL, speed=settings).terms(batch(teacher))  # not prepared: eager
    assert len(marks) == graphs
    settings.check_accumulation(1)
    if graphs:
        with pytest.raises(InputError, match=r"with 2 micro-batches a step.*compile=default"):
            settings.check_accumulation(2)
    else:
        settings.check_accumulation(2)


def test_the_original_teacher_keeps_its_precision(teacher: Teacher) -> None:
    before = teacher.vae.encoder.conv_in.weight.clone()
    fast = module(teacher, SMALL, speed=SpeedSettings(teacher_precision="bfloat16"))
    fast.prepare(CPU)
    assert fast.teacher.vae.dtype is torch.bfloat16
    assert teacher.vae.dtype is torch.float32
    assert torch.equal(teacher.vae.encoder.conv_in.weight, before)


def test_channels_last_changes_no_name_and_no_value(teacher: Teacher) -> None:
    distillation = module(teacher, SMALL, speed=SpeedSettings(channels_last=True))
    before = {name: tensor.clone() for name, tensor in distillation.student.state_dict().items()}
    distillation.prepare(CPU)
    after = distillation.student.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    weight = distillation.student.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_kernel_that_is_not_there_is_told(teacher: Teacher) -> None:
    settings = SpeedSettings(attention="cudnn")
    distillation = module(teacher, SMALL, speed=settings)
    with pytest.raises(InputError, match="no such kernel"), settings.kernels():
        distillation.terms(batch(teacher))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("teacher_precision", "fp8", "expected one of float32, bfloat16"),
        ("allreduce", "int8", "expected one of float32, bfloat16"),
        ("compile", "fast", "expected one of default"),
        ("attention", "magic", "expected one of auto"),
        ("attention", "xformers", "needs a CUDA GPU"),
        ("channels_last", "yes", "expected true or false"),
    ],
)
def test_bad_settings_are_told(name: str, value: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        SpeedSettings(**{name: value})
