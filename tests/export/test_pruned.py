"""Folders of pruned pipelines, dense and packed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

from bksdm.errors import InputError
from bksdm.export import stranger
from bksdm.export.about import About, about_folder
from bksdm.export.card import check_card
from bksdm.export.license import License
from bksdm.export.pipeline import folder_guidance, load_pipeline
from bksdm.export.pruned import PrunedSettings, export_pruned
from bksdm.export.sparse import SPARSITY, folder_sparsity
from bksdm.models.source import PACKED, TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.surgery.sparse.layers import LINEAR_CONV, Selection, prunable
from bksdm.surgery.sparse.plan import COMPONENTS, ComponentSparsity, SparsityPlan, counted
from tests.conftest import tiny_pipeline

Cli = Callable[..., int]
DENSE = PrunedSettings(fresh_process=False)
PACKED_ONE = PrunedSettings(format="packed")
ABOUT_IT = About(
    weights="raw",
    step=7,
    plan={},
    teacher={"path": "a", "unet": {"block_out_channels": [8]}},
    versions={"torch": "2"},
)


def pruned(kind: str, *components: str) -> tuple[StableDiffusionPipeline, SparsityPlan]:
    """A tiny pipeline with about half of some weights zero, and what is zero."""
    pipeline, rng = tiny_pipeline(kind), torch.Generator().manual_seed(1)
    parts = []
    for component in components:
        network = getattr(pipeline, component)
        tensors = []
        for name, layer in prunable([network], Selection(layers=LINEAR_CONV))[0].items():
            zero = torch.rand(layer.weight.shape, generator=rng) < 0.5
            layer.weight.data.masked_fill_(zero, 0)
            tensors.append(counted(f"{name}.weight", layer.weight, criterion="coin", requested=0.5))
        parts.append(
            ComponentSparsity(
                component=component,
                requested=0.5,
                parameters=network.num_parameters(),
                tensors=tuple(tensors),
            )
        )
    return pipeline, SparsityPlan(components=tuple(parts))


def weights(pipeline: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """Of all networks."""
    return {
        f"{part}.{name}": tensor.clone()
        for part, network in pipeline.components.items()
        if isinstance(network, nn.Module)
        for name, tensor in network.state_dict().items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def rounded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: t.half().float() if t.is_floating_point() else t for n, t in tensors.items()}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("sd1", DENSE), ("sd2", PrunedSettings(dtype="float16"))],
    ids=["float32 here", "float16 in a fresh process"],
)
def test_stock_diffusers_draws_the_same_from_a_dense_folder(
    tmp_path: Path, kind: str, settings: PrunedSettings
) -> None:
    pipeline, plan = pruned(kind, *COMPONENTS)
    before = weights(pipeline)
    trained = [each.requires_grad for each in pipeline.unet.parameters()]
    export_pruned(pipeline, tmp_path / "p", plan, settings=settings)
    assert same(weights(pipeline), before)
    assert [each.requires_grad for each in pipeline.unet.parameters()] == trained
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "p", dtype=torch.float32)
    wanted = before if settings.dtype == "float32" else rounded(before)
    assert same(weights(stock), wanted)
    stored = load_file(tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {settings.torch_dtype}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("components", [("text_encoder",), ("unet",), COMPONENTS])
def test_a_packed_folder_loads_as_what_was_written(
    tmp_path: Path, dtype: Any, components: tuple[str, ...]
) -> None:
    pipeline, plan = pruned("sd2", *components)
    settings = PrunedSettings(format="packed", dtype=dtype)
    export_pruned(pipeline, tmp_path / "p", plan, settings=settings)
    for part in COMPONENTS:
        files = [path.name for path in (tmp_path / "p" / part).glob("*.safetensors")]
        assert (files == [PACKED]) == (part in components)
    before = weights(pipeline)
    loaded = load_pipeline(tmp_path / "p")
    assert same(weights(loaded), before if dtype == "float32" else rounded(before))
    assert not any(network.training for network in (loaded.unet, loaded.text_encoder))
    assert dict(loaded.unet.config)["sample_size"] == pipeline.unet.config.sample_size
    if dtype == "float32":
        assert np.array_equal(stranger.picture(loaded), stranger.picture(pipeline))


def test_both_loaders_refuse_each_others_folders(tmp_path: Path) -> None:
    """Above all, stock classes must not fill a network with random weights."""
    pipeline, plan = pruned("sd1", *COMPONENTS)
    export_pruned(pipeline, tmp_path / "p", plan, settings=PACKED_ONE)
    with pytest.raises(OSError, match="no file named"):
        StableDiffusionPipeline.from_pretrained(tmp_path / "p")
    with pytest.raises(OSError, match="no file named"):
        UNet2DConditionModel.from_pretrained(tmp_path / "p" / "unet")
    with pytest.raises(InputError, match="bksdm export packed=") as told:
        load_teacher(TeacherSource(name="p", path=str(tmp_path / "p")))
    assert len(str(told.value).splitlines()) == 1


def test_half_precision_counts_what_is_zero_there(tmp_path: Path) -> None:
    pipeline, plan = pruned("sd1", "unet")
    (part,) = plan.components
    first = part.tensors[0]
    weight = pipeline.unet.get_parameter(first.name)
    weight.data[weight != 0] *= 1e-9  # half precision ends at 6e-8
    export_pruned(pipeline, tmp_path / "p", plan, settings=replace(PACKED_ONE, dtype="float16"))
    found = folder_sparsity(tmp_path / "p")
    assert found is not None
    assert found.components[0].tensors[0].zeros == first.size > first.zeros
    assert found.components[0].tensors[0].criterion == "coin"


def test_a_plan_of_other_weights_is_refused(tmp_path: Path) -> None:
    pipeline, plan = pruned("sd1", "unet")
    pipeline.unet.get_parameter(plan.components[0].tensors[0].name).data[0] = 1.0
    with pytest.raises(InputError, match="has other zeros than its plan says"):
        export_pruned(pipeline, tmp_path / "p", plan, settings=PACKED_ONE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [DENSE, PACKED_ONE], ids=["dense", "packed"])
def test_what_is_not_written_as_it_was_is_noticed_and_the_old_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: PrunedSettings
) -> None:
    pipeline, plan = pruned("sd1", "unet")
    export_pruned(pipeline, tmp_path / "p", plan, settings=settings)
    before = (tmp_path / "p" / SPARSITY).stat().st_mtime_ns

    def spoil(folder: Path) -> None:
        (path,) = (folder / "unet").glob("*.safetensors")
        tensors = load_file(path)
        tensors["conv_in.bias"][0] += 1e-3
        with path.open("rb") as file:
            said = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
        save_file(tensors, path, metadata=said)

    monkeypatch.setattr("bksdm.export.pruned.open_all_to_others", spoil)
    with pytest.raises(RuntimeError, match=r"unet conv_in.bias does not reload"):
        export_pruned(pipeline, tmp_path / "p", plan, settings=settings)
    assert (tmp_path / "p" / SPARSITY).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_what_we_did_not_write_is_not_replaced(tmp_path: Path) -> None:
    pipeline, plan = pruned("sd1", "unet")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match=r"no sparsity.json in it"):
        export_pruned(pipeline, tmp_path / "p", plan, settings=DENSE)


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    pipeline, plan = pruned("sd1", *COMPONENTS)
    more: dict[str, Any] = {"about": ABOUT_IT, "guidance": 5.0, "license": License("mit")}
    for settings, library, loads in (
        (DENSE, "diffusers", "StableDiffusionPipeline.from_pretrained"),
        (PACKED_ONE, "bksdm", "bksdm export packed="),
    ):
        folder = tmp_path / settings.format
        export_pruned(pipeline, folder, plan, settings=settings, **more)
        text = (folder / "README.md").read_text()
        check_card(text)
        said = ModelCard(text).data
        assert (said.library_name, said.license) == (library, "mit")
        assert loads in text
        assert f"this folder has them {settings.format}" in text
        for part in plan.components:
            shares = (part.zeros / part.prunable, part.zeros / part.parameters)
            cells = " | ".join(f"{100 * share:.2f} %" for share in (0.5, *shares))
            assert f"| {part.component} | {cells} |" in text
        about = about_folder(folder)
        assert about is not None
        assert about.export["format"] == settings.format
        assert folder_guidance(folder) == 5
        assert folder_sparsity(folder) == plan
        assert oct(folder.joinpath("unet", "config.json").stat().st_mode)[-2:] == "44"


def test_a_folder_without_a_plan_and_one_with_something_else(tmp_path: Path) -> None:
    assert folder_sparsity(tmp_path) is None
    (tmp_path / SPARSITY).write_text('{"components": 3}')
    with pytest.raises(InputError, match="not a sparsity plan of this version"):
        folder_sparsity(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "sparse"}, "export.format=sparse: expected one of dense, packed"),
        ({"dtype": "bfloat16"}, "export.dtype=bfloat16"),
        ({"fresh_process": 1}, "export.fresh_process=1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        PrunedSettings(**settings)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    pipeline, plan = pruned("sd1", "unet")
    export_pruned(pipeline, tmp_path / "p", plan, settings=PACKED_ONE)
    config = tmp_path / "p" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 24}))
    with pytest.raises(InputError, match=r"expected the packed weights of the network"):
        load_pipeline(tmp_path / "p")


def test_a_packed_folder_becomes_the_dense_one_and_is_drawn_from(
    run_cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, plan = pruned("sd1", *COMPONENTS)
    for settings in (DENSE, PACKED_ONE):
        half = replace(settings, dtype="float16")
        export_pruned(pipeline, tmp_path / half.format, plan, settings=half, license=License("mit"))
    fast = "export.fresh_process=false"
    assert run_cli("export", f"packed={tmp_path / 'packed'}", "out=out", fast) == 0
    for path in (tmp_path / "dense").rglob("*.safetensors"):
        other = tmp_path / "out" / path.relative_to(tmp_path / "dense")
        assert other.read_bytes() == path.read_bytes(), path
    assert ModelCard((tmp_path / "out" / "README.md").read_text()).data.license == "mit"
    draw = ["generate", f"model={tmp_path / 'packed'}", "prompt=a dog", "steps=1"]
    assert run_cli(*draw) == 0
    shutil.rmtree(tmp_path / "packed" / "unet")
    capsys.readouterr()
    assert run_cli(*draw) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["packed={dense}", "out=o"], "expected a folder that was written packed"),
        (["packed=hf://user/name", "out=o"], "download it first"),
        (["packed={packed}"], "out= is missing"),
        (["packed={packed}", "out=o", "export.fp16=true"], "are for students"),
        (["packed={packed}", "run=r", "out=o"], "expected one of them"),
        (["packed={packed}", "out={dense}/unet"], "choose another folder"),
    ],
)
def test_bad_arguments_of_unpacking(
    run_cli: Cli,
    sd1_folder: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline, plan = pruned("sd1", "text_encoder")
    export_pruned(pipeline, tmp_path / "packed", plan, settings=PACKED_ONE)
    places = {"dense": sd1_folder, "packed": tmp_path / "packed"}
    assert run_cli("export", *(each.format(**places) for each in arguments)) == 2
    told = capsys.readouterr().err.strip()
    assert words in told
    assert len(told.splitlines()) == 1
