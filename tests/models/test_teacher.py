import json
import shutil
from pathlib import Path

import pytest
import torch

from bksdm.errors import InputError
from bksdm.models.source import TeacherSource, unet_config
from bksdm.models.teacher import Teacher, load_teacher


def source(path: Path | str) -> TeacherSource:
    return TeacherSource(name="tiny", path=str(path))


def edited(folder: Path, target: Path, part: str, **values: object) -> Path:
    shutil.copytree(folder, target)
    file = target / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return target


def test_a_teacher_is_frozen(teacher: Teacher) -> None:
    for module in (teacher.unet, teacher.vae, teacher.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_pixels_are_encoded_as_the_vae_samples_them(teacher: Teacher) -> None:
    pixels, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 8, 8)
    posterior = teacher.vae.encode(pixels).latent_dist
    expected = (posterior.mean + posterior.std * noise) * teacher.vae.config.scaling_factor
    torch.testing.assert_close(
        teacher.scaled_latents(teacher.encode_moments(pixels), noise=noise), expected
    )


def test_the_embedded_teacher_is_four_stages_of_two() -> None:
    config = unet_config(source("embedded:shapes"))
    assert len(config["down_block_types"]) == 4
    assert config["layers_per_block"] == 2
    assert config["mid_block_type"] == "UNetMidBlock2DCrossAttn"


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(InputError, match="/no/such/teacher"):
        load_teacher(source("/no/such/teacher"))


def test_an_unreachable_hub_id_is_named() -> None:
    with pytest.raises(InputError, match="nobody/nothing"):
        load_teacher(source("nobody/nothing"))


def test_a_transformer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is a transformer, not a U-Net"):
        load_teacher(source(tmp_path))


def test_another_denoiser_class_is_refused(sd1_folder: Path, tmp_path: Path) -> None:
    folder = edited(sd1_folder, tmp_path / "t", "unet", _class_name="UNet2DModel")
    with pytest.raises(InputError, match="is a UNet2DModel; expected a UNet2DConditionModel"):
        load_teacher(source(folder))


def test_a_shifting_vae_is_refused(sd1_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shift_factor=0\.1"):
        load_teacher(source(edited(sd1_folder, tmp_path / "t", "vae", shift_factor=0.1)))


def test_random_weights_need_an_architecture() -> None:
    with pytest.raises(InputError, match="needs a named teacher"):
        TeacherSource(name="x", path="a/b", weights="random")


def test_incomplete_folders_are_refused(sd1_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    shutil.copytree(sd1_folder, folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(InputError, match="expected a complete diffusers folder"):
        load_teacher(source(folder))
