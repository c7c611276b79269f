"""Folders of narrow students, and what begins as them."""

import shutil
from pathlib import Path

import pytest
import torch

from bksdm.errors import InputError
from bksdm.export.folder import ExportSettings, export_student
from bksdm.export.narrow import narrow_plan, read_plan
from bksdm.export.pipeline import load_pipeline
from bksdm.models.source import NARROW
from bksdm.models.teacher import Teacher
from bksdm.surgery import plans
from bksdm.surgery.narrow import masked
from bksdm.surgery.plan import BASE
from bksdm.surgery.width import WidthPlan
from bksdm.training.beginning import find_ancestor
from tests.experts import tiny_plan


@pytest.fixture
def plan(teacher: Teacher) -> WidthPlan:
    """For each kind of teacher."""
    return tiny_plan(kind="sd2" if teacher.unet.config.use_linear_projection else "sd1")


@pytest.fixture
def folder(teacher: Teacher, plan: WidthPlan, tmp_path: Path) -> Path:
    """An expert's, before training."""
    path = tmp_path / "expert"
    export_student(teacher, plans.cut(teacher.unet, plan), path, plan=plan)
    return path


def test_a_folder_reloads_bit_for_bit_and_has_its_plan(
    teacher: Teacher, plan: WidthPlan, folder: Path
) -> None:
    assert narrow_plan(folder) == plan
    wanted, found = plans.cut(teacher.unet, plan).state_dict(), load_pipeline(folder).unet
    assert found.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.state_dict().items())
    assert not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 3, 16)
    with torch.no_grad():
        full = masked(teacher.unet, plan)(*inputs).sample
        assert torch.allclose(found(*inputs).sample, full, atol=1e-5)


def test_damage_is_told(folder: Path, plan: WidthPlan) -> None:
    (folder / "unet" / "plan.json").write_text(WidthPlan(dropped=plan.dropped).to_json())
    with pytest.raises(InputError, match="expected the weights of the narrow U-Net"):
        load_pipeline(folder)
    (folder / "unet" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match=r"plan\.json: no width plan"):
        load_pipeline(folder)
    (folder / "unet" / "plan.json").unlink()
    with pytest.raises(InputError, match=r"plan\.json: no such file"):
        load_pipeline(folder)
    with pytest.raises(InputError, match="no width plan"):
        read_plan(folder / "unet" / NARROW)


@pytest.mark.parametrize("name", ["fp16", "identity_mid", "single_file"])
def test_forms_that_only_stock_folders_have_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"export\.{name}=true: the student is narrow"):
        ExportSettings(**{name: True}).narrow(tiny_plan())
    assert ExportSettings(**{name: True}, masked=True).narrow(tiny_plan()) is None
    with pytest.raises(InputError, match="stock already"):
        ExportSettings(masked=True).narrow(BASE)


def test_a_student_begins_as_its_own_expert_or_is_cut_out_of_a_whole_model(
    teacher: Teacher, teacher_folder: Path, plan: WidthPlan, folder: Path, tmp_path: Path
) -> None:
    wanted = plans.cut(teacher.unet, plan).state_dict()
    for place in (folder, teacher_folder):
        begun = find_ancestor(str(place)).beginning(teacher, plan).unet
        assert all(torch.equal(each, wanted[name]) for name, each in begun.state_dict().items())
    shutil.copytree(folder, tmp_path / "other")
    for other in (BASE, WidthPlan(dropped=plan.dropped)):
        with pytest.raises(InputError, match="narrow, cut to another plan"):
            find_ancestor(str(folder)).beginning(teacher, other)
