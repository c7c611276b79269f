"""Versions of one pipeline: made, judged, kept, and the pipeline left as it was."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from bksdm.errors import InputError
from bksdm.evaluation.fingerprint import part_hashes
from bksdm.evaluation.measure import Subject
from bksdm.evaluation.measures.attributes import AttributeAccuracy
from bksdm.evaluation.prompts import ShapesPrompts
from bksdm.evaluation.pruning.study import Study
from bksdm.evaluation.pruning.version import pruned
from bksdm.export.sparse import folder_sparsity
from bksdm.surgery.sparse.method import Method
from bksdm.surgery.sparse.plan import COMPONENTS
from tests.evaluation.pruning.studies import (
    CALIBRATION,
    MAGNITUDE,
    MEASURES,
    PROTOCOL,
    RANDOM,
    WANDA,
    configuration,
    quiet,
    study,
)


@contextmanager
def counted_calls(network: nn.Module) -> Iterator[list[int]]:
    """Batch sizes of the network's calls in the block."""
    sizes: list[int] = []
    handle = network.register_forward_hook(
        lambda module, args, kwargs, out: sizes.append(len(out[0])), with_kwargs=True
    )
    try:
        yield sizes
    finally:
        handle.remove()


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").glob("*.png")}


@pytest.fixture
def fresh(tmp_path: Path) -> Study:
    return study(tmp_path / "out")


def test_dense_pictures_are_made_once_a_seed(fresh: Study) -> None:
    with counted_calls(fresh.pipeline.unet) as first:
        fresh.dense(0)
    assert sum(first) == 2 * 5 + 5  # one guided step and one draw of the denoising loss
    with counted_calls(fresh.pipeline.unet) as again:
        fresh.dense(0)
    assert again == []
    with counted_calls(fresh.pipeline.unet) as version:
        fresh.measured(configuration(MAGNITUDE, unet=0.3))
        fresh.measured(configuration(RANDOM, unet=0.3))
    assert sum(version) == 2 * 15
    with counted_calls(fresh.pipeline.unet) as other:
        fresh.measured(configuration(MAGNITUDE, unet=0.3, seed=1))
    assert sum(other) == 2 * 15  # the dense model's, too


@pytest.mark.parametrize("method", [MAGNITUDE, WANDA], ids=lambda m: m.name)
def test_the_pipeline_is_bit_for_bit_dense_after_a_version(fresh: Study, method: Method) -> None:
    before = part_hashes(fresh.pipeline)
    fresh.measured(configuration(method, text_encoder=0.5, unet=0.7))
    assert part_hashes(fresh.pipeline) == before == part_hashes(quiet())


def test_a_version_without_zeros_has_the_dense_models_pictures_and_scores(fresh: Study) -> None:
    """Prompts and noise are paired."""
    dense = fresh.dense(0)
    almost = fresh.measured(configuration(MAGNITUDE, unet=1e-6))
    far = fresh.measured(configuration(MAGNITUDE, unet=0.9))
    assert almost.plan.components[0].zeros == 0
    assert pictures(almost.folder) == pictures(dense.folder) != pictures(far.folder)
    assert pictures(dense.folder).keys() == pictures(far.folder).keys()
    loss = [each.score("denoising loss") for each in (dense, almost, far)]
    assert loss[0] is not None
    assert loss[1] is not None
    assert loss[2] is not None
    assert loss[0].items == loss[1].items != loss[2].items
    distance = almost.score("latent MSE to baseline")
    assert distance is not None
    assert distance.value == 0


def test_another_seed_has_other_prompts_and_other_noise(fresh: Study) -> None:
    one, other = fresh.dense(0), fresh.dense(1)
    texts = [{p.text for p in fresh.protocol(seed).prompts.read()} for seed in (0, 1)]
    assert texts[0] != texts[1]
    assert not set(pictures(one.folder).values()) & set(pictures(other.folder).values())


def test_a_version_that_is_read_again_is_what_was_measured(tmp_path: Path, fresh: Study) -> None:
    wanted = configuration(WANDA, text_encoder=0.5, unet=0.5)
    made = fresh.measured(wanted)
    later = study(tmp_path / "out")
    assert later.has(wanted)
    with counted_calls(later.pipeline.unet) as calls:
        found = later.measured(wanted)
    assert calls == []
    assert (found.plan, found.accounting, found.seed) == (made.plan, made.accounting, 0)
    for name in ("denoising loss", "latent MSE to baseline"):
        one, other = found.score(name), made.score(name)
        assert one is not None
        assert other is not None
        assert (one.value, one.items) == (other.value, other.items)


def test_what_is_kept_of_a_version_tells_its_zeros(fresh: Study) -> None:
    """Counted anew in weights that are pruned the same way a second time."""
    wanted = configuration(MAGNITUDE, text_encoder=0.4, unet=0.6)
    made = fresh.measured(wanted)
    with pruned(
        fresh.pipeline,
        wanted,
        calibration=lambda seed: CALIBRATION,
        samples={},
        already_sparse=False,
        before=None,
    ):
        zeros = {name: linear_zeros(getattr(fresh.pipeline, name)) for name in COMPONENTS}
    whole = {n: sum(p.numel() for p in getattr(quiet(), n).parameters()) for n in COMPONENTS}
    assert folder_sparsity(made.folder) == made.plan
    assert made.accounting.zeros == sum(zeros.values())
    assert made.accounting.in_component == {n: zeros[n] / whole[n] for n in COMPONENTS}
    assert made.accounting.both == sum(zeros.values()) / sum(whole.values())


def linear_zeros(network: nn.Module) -> int:
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    return sum(int((each.weight == 0).sum()) for each in linear)


def test_only_the_first_pictures_of_a_version_stay_and_all_of_the_dense_models(
    tmp_path: Path,
) -> None:
    many = replace(PROTOCOL, prompts=ShapesPrompts(count=10, held_out=0, seed=100))
    made = study(tmp_path, many)
    version, dense = made.measured(configuration(MAGNITUDE, unet=0.3)), made.dense(0)
    first = {f"{prompt.id}.png" for prompt in many.prompts.read()[:8]}
    assert {path.name for path in (version.folder / "images").iterdir()} == first
    assert len(list((dense.folder / "images").iterdir())) == 20


@dataclass(frozen=True)
class Interrupted:
    """A measure that is interrupted before anything is measured, when its turn has come."""

    turns: ClassVar[list[int]] = []
    names: ClassVar[tuple[str, ...]] = ("interrupted",)

    def begin(self, subject: Subject) -> "Interrupted":
        return self

    def update(self, batch: object) -> None:
        self.turns[0] -= 1
        if self.turns[0] == 0:
            raise KeyboardInterrupt

    def scores(self) -> list[object]:
        return []


def test_a_version_that_was_interrupted_goes_on_from_its_pictures(tmp_path: Path) -> None:
    """In its second batch: the pipeline is dense again, finished pictures stay, scores agree."""
    wanted = configuration(MAGNITUDE, unet=0.6)
    whole = study(tmp_path / "whole").measured(wanted)
    halting = replace(PROTOCOL, measures={**MEASURES, "halting": Interrupted()})
    halted = study(tmp_path / "halted", halting)
    Interrupted.turns[:] = [100]
    halted.dense(0)
    Interrupted.turns[:] = [2]
    with pytest.raises(KeyboardInterrupt):
        halted.measured(wanted)
    assert part_hashes(halted.pipeline) == part_hashes(quiet())
    assert not halted.has(wanted)
    later = study(tmp_path / "halted")
    with counted_calls(later.pipeline.unet) as calls:
        found = later.measured(wanted)
    assert sum(calls) == 5  # the denoising loss alone
    assert pictures(found.folder) == pictures(whole.folder)
    one, other = found.score("denoising loss"), whole.score("denoising loss")
    assert one is not None
    assert other is not None
    assert one.items == other.items


def test_a_protocol_that_cannot_judge_the_model_leaves_nothing(tmp_path: Path) -> None:
    wrong = replace(
        PROTOCOL, measures={"attributes": AttributeAccuracy()}, decide="all attributes right"
    )
    with pytest.raises(InputError, match="choose another protocol"):
        study(tmp_path / "out", wrong).measured(configuration(MAGNITUDE, unet=0.5))
    assert not os.listdir(tmp_path)


def test_a_sparse_pipeline_is_refused_or_counted_in(tmp_path: Path) -> None:
    def half() -> StableDiffusionPipeline:
        pipeline = quiet()
        for layer in pipeline.unet.modules():
            if isinstance(layer, nn.Linear):
                with torch.no_grad():
                    layer.weight[::2] = 0
        return pipeline

    wanted = configuration(MAGNITUDE, unet=0.6)
    with pytest.raises(InputError, match=r"the unet.* 5.* % are zeros already"):
        study(tmp_path / "a", pipeline=half()).measured(wanted)
    found = study(tmp_path / "b", pipeline=half(), already_sparse=True).measured(wanted)
    assert found.accounting.in_tensors["unet"] == pytest.approx(0.6, abs=0.01)
