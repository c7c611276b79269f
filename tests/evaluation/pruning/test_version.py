"""One pruned version of a pipeline, and what was zero in it before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bksdm.errors import InputError
from bksdm.evaluation.gallery import NotFiniteError
from bksdm.evaluation.pruning import study as studying
from bksdm.evaluation.pruning.grid import Configuration
from bksdm.evaluation.pruning.version import layers_of, prune_pipeline, sizes_of
from bksdm.export.sparse import recount
from bksdm.surgery.sparse.accounting import accounting
from bksdm.surgery.sparse.layers import Selection
from bksdm.surgery.sparse.plan import SparsityPlan
from tests.evaluation.pruning.studies import (
    CALIBRATION,
    MAGNITUDE,
    WANDA,
    configuration,
    quiet,
    study,
)


def zeroed(wanted: Configuration, before: SparsityPlan | None = None, **more: bool) -> SparsityPlan:
    """Of the module's pipeline."""
    return prune_pipeline(
        PIPELINE, wanted, calibration=lambda seed: CALIBRATION, before=before, **more
    )


PIPELINE = quiet()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny pipeline, dense."""
    monkeypatch.setattr(f"{__name__}.PIPELINE", quiet())


def test_zeros_of_a_component_that_is_not_pruned_now_stay_in_the_plan() -> None:
    unet = zeroed(configuration(MAGNITUDE, unet=0.4))
    both = zeroed(configuration(MAGNITUDE, text_encoder=0.3), before=unet)
    assert [part.component for part in both.components] == ["text_encoder", "unet"]
    assert both.of("unet") == unet.of("unet")
    zeros = accounting(both, sizes_of(PIPELINE), bytes_a_weight=4).zeros
    there = sum(int((p == 0).sum()) for p in PIPELINE.unet.parameters() if p.ndim == 2)
    there += sum(int((p == 0).sum()) for p in PIPELINE.text_encoder.parameters() if p.ndim == 2)
    assert zeros == there


def test_zeros_of_layers_that_are_not_chosen_now_stay_in_the_plan() -> None:
    wide = replace(configuration(MAGNITUDE, unet=0.3), selection=Selection(layers="linear+conv"))
    first = zeroed(wide)
    again = zeroed(configuration(MAGNITUDE, unet=0.5), before=first, already_sparse=True)
    networks = {"unet": PIPELINE.unet, "text_encoder": PIPELINE.text_encoder}
    found, counted = (
        {tensor.name: tensor for tensor in plan.components[0].tensors}
        for plan in (again, recount(again, networks))
    )
    assert found == counted
    assert found.keys() == {tensor.name for tensor in first.components[0].tensors}


def test_a_plan_says_what_would_make_it_again() -> None:
    told = zeroed(configuration(WANDA, unet=0.4, seed=3)).components[0].method
    for word in ("Wanda()", "seed=3", "ShapesPrompts(count=8", "draws=2"):
        assert word in told


def test_a_pipeline_without_a_component_is_refused() -> None:
    PIPELINE.text_encoder = None
    with pytest.raises(InputError, match="the pipeline has no text_encoder; expected"):
        layers_of(PIPELINE, Selection())


def test_a_version_with_a_picture_that_is_not_a_number_is_recorded_as_collapsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study(tmp_path)
    made.dense(0)

    def overflow(*_: object, **__: object) -> None:
        raise NotFiniteError("not a number")

    monkeypatch.setattr(studying, "evaluate", overflow)
    found = made.measured(configuration(MAGNITUDE, unet=0.9))
    loss = found.score("denoising loss")
    assert loss is not None
    assert torch.tensor(loss.value).isnan()
    again = made.measured(configuration(MAGNITUDE, unet=0.9)).score("denoising loss")
    assert again is not None
    assert torch.tensor(again.value).isnan()
    assert again.items is not None
    assert loss.items is not None
    assert again.items.ids == loss.items.ids


def test_what_is_already_sparse_is_refused_before_any_picture_is_made(tmp_path: Path) -> None:
    made = study(tmp_path)
    with torch.no_grad():
        for parameter in made.pipeline.unet.parameters():
            parameter[:1] = 0
    with pytest.raises(InputError, match="zeros already; expected a dense model"):
        made.measured(configuration(MAGNITUDE, unet=0.5))
    assert not list(tmp_path.iterdir())
