import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from bksdm.errors import InputError
from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.identity_mid import with_identity_mid
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan
from tests.conftest import WIDTH, tiny_unet


def answer(unet: UNet2DConditionModel) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 8, 8, generator=rng)
    text = torch.randn(2, 5, WIDTH, generator=rng)
    with torch.no_grad():
        return unet(latents, torch.tensor([900, 1]), text).sample


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("plan", [SMALL, TINY], ids=["small", "tiny"])
def test_answers_are_equal_bit_for_bit(kind: str, plan: BlockPlan) -> None:
    student = remove_blocks(tiny_unet(kind), plan=plan)
    whole = with_identity_mid(student)
    assert torch.equal(answer(student), answer(whole))
    assert student.mid_block is None
    assert whole.config.mid_block_type == "UNetMidBlock2DCrossAttn"


def test_it_can_be_trained() -> None:
    whole = with_identity_mid(remove_blocks(tiny_unet("sd1"), plan=SMALL)).train()
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, WIDTH)
    whole(latents, torch.tensor([500]), text).sample.square().mean().backward()
    assert whole.mid_block.resnets[0].conv2.weight.grad.abs().sum() > 0
    assert whole.mid_block.attentions[0].proj_out.weight.grad.abs().sum() > 0


def test_it_is_the_same_every_time_and_leaves_the_generator_alone() -> None:
    student = remove_blocks(tiny_unet("sd1"), plan=SMALL)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = with_identity_mid(student).state_dict()
    assert torch.equal(torch.rand(1), expected)
    second = with_identity_mid(student).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_control_net_takes_the_student_with_it_and_not_without() -> None:
    student = remove_blocks(tiny_unet("sd1"), plan=TINY)
    with pytest.raises(ValueError, match="mid_block_type"):
        ControlNetModel.from_unet(student)
    control = ControlNetModel.from_unet(with_identity_mid(student))
    assert control.mid_block is not None


def test_a_student_with_a_mid_block_needs_none() -> None:
    with pytest.raises(InputError, match="leave it out"):
        with_identity_mid(remove_blocks(tiny_unet("sd1"), plan=BASE))
