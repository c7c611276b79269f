"""`bksdm prune` of one model: what is written loads where it should, and has the zeros it tells."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from bksdm.export.pipeline import load_pipeline
from bksdm.surgery.sparse.plan import SparsityPlan

Cli = Callable[..., int]
FAST = "export.fresh_process=false"


def zeros(network: nn.Module, kind: type[nn.Module] = nn.Linear) -> tuple[int, int]:
    """Of weights of such layers, and how many there are."""
    weights = [m.weight for m in network.modules() if isinstance(m, kind)]
    tensors = [w for w in weights if isinstance(w, torch.Tensor)]
    return sum(int((w == 0).sum()) for w in tensors), sum(w.numel() for w in tensors)


def share(network: nn.Module, kind: type[nn.Module] = nn.Linear) -> float:
    found, size = zeros(network, kind)
    return found / size


def stock(folder: Path | str) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def told(folder: Path | str) -> SparsityPlan:
    return SparsityPlan.from_json((Path(folder) / "sparsity.json").read_text())


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.fixture
def captions(tmp_path: Path) -> list[str]:
    """Calibration on a file of captions."""
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"a dog number {i}\n" for i in range(8)))
    own = [f"path={path}", "count=8"]
    return [
        "calibration=captions",
        *(f"calibration.prompts.{each}" for each in own),
        "calibration.sampling.steps=1",
        "calibration.draws=8",
    ]


def test_stock_diffusers_loads_the_dense_folder_and_bksdm_draws_the_same_of_both(
    run_cli: Cli, sd1_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point = [f"model={sd1_folder}", "text_encoder=0.4", "unet=0.6"]
    assert run_cli("prune", *point, "out=dense", FAST) == 0
    assert "pruned: dense (dense, float32, " in capsys.readouterr().out
    assert run_cli("prune", *point, "out=packed", "export.format=packed") == 0
    pipeline, before = stock("dense"), stock(sd1_folder)
    assert share(pipeline.text_encoder) == pytest.approx(0.4, abs=0.005)
    assert share(pipeline.unet) == pytest.approx(0.6, abs=0.005)
    assert same(pipeline.vae, before.vae)
    packed = load_pipeline("packed")
    assert same(packed.unet, pipeline.unet)
    assert same(packed.text_encoder, pipeline.text_encoder)
    assert told("packed") == told("dense")
    sizes = [sum(f.stat().st_size for f in Path(name).rglob("*")) for name in ("packed", "dense")]
    assert sizes[0] < sizes[1]
    for name in ("dense", "packed"):
        few = ["prompt=a dog", "steps=2", "guidance=2", f"out=of-{name}"]
        assert run_cli("generate", f"model={name}", *few) == 0
    pictures = [next(Path(f"of-{name}").glob("*-s*.png")) for name in ("dense", "packed")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_weights_that_stay_are_those_of_the_model(run_cli: Cli, sd1_folder: Path) -> None:
    """And the smallest go: none that went is larger than one that stayed."""
    assert run_cli("prune", f"model={sd1_folder}", "unet=0.5", FAST, "out=o") == 0
    before, after = stock(sd1_folder).unet.state_dict(), stock("o").unet.state_dict()
    names = {tensor.name for part in told("o").components for tensor in part.tensors}
    assert all(torch.equal(before[name], after[name]) for name in before if name not in names)
    for name in names:
        stayed = after[name] != 0
        assert torch.equal(after[name][stayed], before[name][stayed])
        assert before[name][~stayed].abs().max() <= before[name][stayed].abs().min()
    assert same(stock("o").text_encoder, stock(sd1_folder).text_encoder)


def test_a_dry_run_counts_the_paper_s_point_on_the_real_architecture(
    run_cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    point = ["teacher=sd21", "text_encoder=0.475", "unet=0.35", "dry_run=true"]
    assert run_cli("prune", *point) == 0
    out = capsys.readouterr().out
    assert "289,406,976 of 340,387,840" in out
    assert "301,219,840 of 865,910,724" in out
    assert re.search(r"nominal.* 38\.53 %\n", out)
    assert re.search(r"zeros in text encoder \+ U-Net +20\.14 % ", out)
    assert "MACs and time of a call" in out
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_is_in_every_group_of_four(run_cli: Cli, sd1_folder: Path) -> None:
    point = [f"model={sd1_folder}", "unet=0.5", "criterion.pattern=2:4"]
    assert run_cli("prune", *point, "out=o", FAST) == 0
    unet = stock("o").unet
    for layer in unet.modules():
        if isinstance(layer, nn.Linear):
            assert ((layer.weight.reshape(-1, 4) == 0).sum(1) == 2).all()


def test_the_unet_may_have_another_criterion(
    run_cli: Cli, sd1_folder: Path, captions: list[str]
) -> None:
    point = [f"model={sd1_folder}", "text_encoder=0.5", "unet=0.5", *captions]
    assert run_cli("prune", *point, "criterion@unet_criterion=wanda", "out=o", FAST) == 0
    found = {part.component: part.tensors[0].criterion for part in told("o").components}
    assert found == {"text_encoder": "magnitude, by tensor", "unet": "wanda, by row"}
    for layer in stock("o").unet.modules():  # Wanda takes half of every row
        if isinstance(layer, nn.Linear):
            assert ((layer.weight == 0).sum(1) == layer.in_features // 2).all()


def test_weights_that_stay_make_up_for_those_that_go(
    run_cli: Cli, sd1_folder: Path, captions: list[str]
) -> None:
    point = [f"model={sd1_folder}", "text_encoder=0.5", "unet=0.5", "criterion=obs_diff"]
    assert run_cli("prune", *point, *captions, "out=o", FAST) == 0
    pipeline, before = stock("o"), stock(sd1_folder)
    for name in ("text_encoder", "unet"):
        after = getattr(pipeline, name)
        assert share(after) == pytest.approx(0.5, abs=0.03)
        first = next(m.weight for m in after.modules() if isinstance(m, nn.Linear))
        old = next(m.weight for m in getattr(before, name).modules() if isinstance(m, nn.Linear))
        assert not torch.equal(first[first != 0], old[first != 0])


def test_include_and_exclude_choose_layers(run_cli: Cli, sd1_folder: Path) -> None:
    chosen = ["include=[attn2,'down_blocks.0']", "exclude=[to_out]", "layers=linear+conv"]
    assert run_cli("prune", f"model={sd1_folder}", "unet=0.5", *chosen, "out=o", FAST) == 0
    names = [tensor.name for part in told("o").components for tensor in part.tensors]
    unet = stock("o").unet
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            wanted = ".attn2." in name or name.startswith("down_blocks.0.")
            assert (f"{name}.weight" in names) is (wanted and ".to_out." not in name)
    assert any("conv" in name for name in names)
    assert share(unet, nn.Conv2d) > 0


def test_another_seed_takes_other_weights_in_a_folder_named_for_what_it_is(
    run_cli: Cli, sd1_folder: Path
) -> None:
    point = [f"model={sd1_folder}", "unet=0.5", "criterion=random", FAST]
    assert run_cli("prune", *point, "layers=linear+conv", "export.dtype=float16") == 0
    assert run_cli("prune", *point, "seed=1", "out=c") == 0
    first = told(f"pruned/{sd1_folder.name}-0-50-random-linear-conv")
    masks = [
        {tensor.name: tensor.mask for part in each.components for tensor in part.tensors}
        for each in (first, told("c"))
    ]
    assert set(masks[1]) < set(masks[0])
    assert all(masks[0][name] != mask for name, mask in masks[1].items())


def test_a_bk_student_can_be_pruned(run_cli: Cli, whole: Path) -> None:
    assert run_cli("prune", f"model={whole}", "unet=0.5", "text_encoder=0.3", FAST, "out=o") == 0
    pruned, student = stock("o"), stock(whole / "student")
    assert pruned.unet.config.down_block_types == student.unet.config.down_block_types
    assert pruned.unet.num_parameters() == student.unet.num_parameters()
    assert share(pruned.unet) == pytest.approx(0.5, abs=0.005)
    about: dict[str, Any] = json.loads(Path("o/bksdm.json").read_text())
    assert about["plan"] == json.loads((whole / "student" / "bksdm.json").read_text())["plan"]


def test_what_was_pruned_can_be_pruned_further_where_its_zeros_are_counted_in(
    run_cli: Cli, sd1_folder: Path
) -> None:
    assert run_cli("prune", f"model={sd1_folder}", "unet=0.3", FAST, "out=a") == 0
    more = ["unet=0.6", "already_sparse=true", FAST, "out=b"]
    assert run_cli("prune", "model=a", *more) == 0
    first, second = stock("a").unet, stock("b").unet
    assert share(second) == pytest.approx(0.6, abs=0.005)
    for name, weight in first.state_dict().items():
        if name in {t.name for part in told("b").components for t in part.tensors}:
            assert (second.state_dict()[name][weight == 0] == 0).all()


def test_a_model_that_was_pruned_otherwise_is_not_replaced(
    run_cli: Cli, sd1_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point = [f"model={sd1_folder}", "unet=0.6", "out=one", FAST]
    assert run_cli("prune", *point) == 0
    before = told("one")
    assert run_cli("prune", *point, "criterion.granularity=component") == 2
    assert "one holds a model that was pruned otherwise; choose another" in capsys.readouterr().err
    assert told("one") == before
    assert run_cli("prune", *point, "export.format=packed") == 0  # the same model
    assert told("one") == before
