import pytest
import torch
from diffusers import UNet2DConditionModel

from bksdm.errors import InputError
from bksdm.models.cost import parameter_count, unet_cost
from bksdm.surgery.blocks import (
    dropped_modules,
    empty_student,
    feature_pairs,
    remove_blocks,
    student_config,
    weight_map,
)
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan, identity
from tests.conftest import WIDTH, tiny_unet
from tests.golden import SD1, SD2

PLANS = {"base": BASE, "small": SMALL, "tiny": TINY}
UNEVEN = BlockPlan(down=((0,), (0, 1), (0,), (0,)), mid=True)


def run(unet: UNet2DConditionModel) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 5, WIDTH, generator=rng)
    with torch.no_grad():
        return unet.eval()(latents, torch.tensor([3, 700]), text).sample


@pytest.mark.parametrize(
    ("config", "name", "parameters"),
    [
        (SD1, "base", 579_384_964),
        (SD1, "small", 482_346_884),
        (SD1, "tiny", 323_384_964),
        (SD2, "base", 583_480_964),
        (SD2, "small", 485_787_524),
        (SD2, "tiny", 326_825_604),
    ],
)
def test_published_parameter_counts(config: dict[str, object], name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert parameter_count(empty_student(config, PLANS[name])) == parameters


def test_teacher_parameter_counts() -> None:
    with torch.device("meta"):
        assert parameter_count(UNet2DConditionModel.from_config(SD1)) == 859_520_964
        assert parameter_count(UNet2DConditionModel.from_config(SD2)) == 865_910_724


def test_published_macs() -> None:
    teacher, base = unet_cost(SD1), unet_cost(student_config(SD1, BASE))
    assert (teacher.macs_published, base.macs_published) == (338_749_194_240, 223_755_632_640)
    assert round(teacher.macs / 1e9, 1) == 401.6
    assert round(base.macs / 1e9, 1) == 261.5


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_keeping_everything_changes_nothing(kind: str) -> None:
    unet = tiny_unet(kind)
    torch.testing.assert_close(
        run(remove_blocks(unet, plan=identity((2, 2, 2, 2)))), run(unet), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("plan", [BASE, SMALL, TINY, UNEVEN])
def test_every_student_runs_and_survives_its_config(kind: str, plan: BlockPlan) -> None:
    student = remove_blocks(tiny_unet(kind), plan=plan)
    again = UNet2DConditionModel.from_config(student.config)
    again.load_state_dict(student.state_dict())
    assert torch.equal(run(again), run(student))


def test_the_teacher_is_left_alone() -> None:
    unet = tiny_unet("sd1")
    before = run(unet)
    student = remove_blocks(unet, plan=SMALL)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(run(unet), before)


def test_removing_the_mid_block_equals_making_it_the_identity() -> None:
    """Independent of the weight map: the teacher's own forward, with a mid block that passes its
    input on.
    """
    unet = tiny_unet("sd1")
    student = remove_blocks(unet, plan=BlockPlan(down=((0, 1), (0, 1), (0, 1), (0, 1)), mid=False))
    for layer in (unet.mid_block.resnets[0], unet.mid_block.resnets[1]):
        torch.nn.init.zeros_(layer.conv2.weight)
        torch.nn.init.zeros_(layer.conv2.bias)
    torch.nn.init.zeros_(unet.mid_block.attentions[0].proj_out.weight)
    torch.nn.init.zeros_(unet.mid_block.attentions[0].proj_out.bias)
    torch.testing.assert_close(run(student), run(unet))


@pytest.mark.parametrize(
    ("plan", "student_name", "teacher_name"),
    [
        (
            BASE,
            "up_blocks.1.attentions.1.proj_in.weight",
            "up_blocks.1.attentions.2.proj_in.weight",
        ),
        (BASE, "up_blocks.0.resnets.1.conv1.weight", "up_blocks.0.resnets.2.conv1.weight"),
        (BASE, "down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv1.weight"),
        (TINY, "up_blocks.0.resnets.1.conv1.weight", "up_blocks.1.resnets.2.conv1.weight"),
        (TINY, "up_blocks.1.upsamplers.0.conv.weight", "up_blocks.2.upsamplers.0.conv.weight"),
        (UNEVEN, "up_blocks.2.resnets.1.conv1.weight", "up_blocks.2.resnets.1.conv1.weight"),
        (UNEVEN, "up_blocks.3.resnets.1.conv1.weight", "up_blocks.3.resnets.2.conv1.weight"),
    ],
)
def test_published_weight_map(plan: BlockPlan, student_name: str, teacher_name: str) -> None:
    teacher = tiny_unet("sd1")
    student = remove_blocks(teacher, plan=plan)
    assert (
        weight_map(teacher, student, plan=plan, config=teacher.config)[student_name] == teacher_name
    )
    assert torch.equal(student.state_dict()[student_name], teacher.state_dict()[teacher_name])


def test_feature_pairs_of_base_and_small_are_the_eight_stage_outputs() -> None:
    stages = [f"{side}_blocks.{i}" for side in ("down", "up") for i in range(4)]
    assert (
        feature_pairs(BASE, SD1) == feature_pairs(SMALL, SD1) == [(name, name) for name in stages]
    )


def test_feature_pairs_of_tiny_are_the_published_six() -> None:
    assert feature_pairs(TINY, SD1) == [
        ("down_blocks.0", "down_blocks.0"),
        ("down_blocks.1", "down_blocks.1"),
        ("down_blocks.2.attentions.1.proj_out", "down_blocks.2.attentions.0.proj_out"),
        ("up_blocks.1", "up_blocks.0"),
        ("up_blocks.2", "up_blocks.1"),
        ("up_blocks.3", "up_blocks.2"),
    ]


def test_what_tiny_drops() -> None:
    teacher = tiny_unet("sd1")
    names = weight_map(teacher, remove_blocks(teacher, plan=TINY), plan=TINY, config=teacher.config)
    dropped = dropped_modules(teacher, names)
    assert {"mid_block", "down_blocks.3", "up_blocks.0", "down_blocks.2.downsamplers.0"} <= set(
        dropped
    )
    lost = parameter_count(teacher) - sum(
        teacher.state_dict()[name].numel() for name in names.values()
    )
    assert lost == sum(parameter_count(teacher.get_submodule(name)) for name in dropped)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (BlockPlan(down=((0,),) * 5, mid=True), "keeps 5 stages"),
        (BlockPlan(down=((0, 2), (0,), (0,), (0,)), mid=True), "layer 2 of down stage 0"),
        (BlockPlan(down=((0,), (0,)), mid=True), "mid block"),
        (BlockPlan(down=((0,), (0,)), mid=False), "only stages of equal channels"),
    ],
)
def test_a_plan_for_another_unet_is_refused(plan: BlockPlan, message: str) -> None:
    with pytest.raises(InputError, match=message):
        student_config(SD1, plan)
