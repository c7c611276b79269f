"""What a student takes from the model that it begins as."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bksdm.errors import InputError
from bksdm.models.teacher import Teacher
from bksdm.surgery.blocks import remove_blocks
from bksdm.surgery.plan import SMALL, TINY, BlockPlan
from bksdm.surgery.sparse.plan import SparsityPlan
from bksdm.training.beginning import find_ancestor
from tests.pruned import prune, zeroed

WHOLE = BlockPlan(down=((0, 1),) * 4, mid=True)


@pytest.fixture
def pruned(teacher_folder: Path, tmp_path: Path) -> Path:
    prune(teacher_folder, tmp_path / "pruned")
    return tmp_path / "pruned"


@pytest.mark.parametrize("plan", [SMALL, TINY, WHOLE])
def test_a_pruned_teacher_that_is_cut_has_the_zeros_of_what_stays(
    teacher: Teacher, pruned: Path, plan: BlockPlan
) -> None:
    """Against zeros put into a cut teacher: half of each layer goes, wherever it lies."""
    ancestor = find_ancestor(str(pruned))
    begun = ancestor.beginning(teacher, plan)
    other = remove_blocks(teacher.unet, plan=plan)
    expected = zeroed("unet", other)
    assert all(torch.equal(begun.unet.state_dict()[n], w) for n, w in other.state_dict().items())
    assert begun.sparsity is not None
    assert begun.sparsity.of("unet") == expected
    assert begun.masks.keys() == {tensor.name for tensor in expected.tensors}
    for name, keep in begun.masks.items():
        assert torch.equal(keep, other.state_dict()[name] != 0)
    hollow = ancestor.hollow(teacher, plan)
    assert {n: m.shape for n, m in hollow.masks.items()} == {
        n: m.shape for n, m in begun.masks.items()
    }
    assert hollow.text_encoder is not None


def test_other_zeros_than_the_plan_says_are_refused(
    teacher: Teacher, teacher_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pruned"
    plan = prune(teacher_folder, folder)
    unet = plan.of("unet")
    assert unet is not None
    wrong = replace(unet.tensors[0], mask="0" * 16)
    edited = SparsityPlan(components=(replace(unet, tensors=(wrong,)),))
    (folder / "sparsity.json").write_text(edited.to_json())
    with pytest.raises(InputError, match="has other zeros than its plan says"):
        find_ancestor(str(folder)).beginning(teacher, SMALL)
    (folder / "sparsity.json").write_text("{}")
    with pytest.raises(InputError, match=r"sparsity.json: not a sparsity plan"):
        find_ancestor(str(folder))
