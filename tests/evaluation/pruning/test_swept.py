"""What a finished sweep says of scores of each kind."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bksdm.errors import InputError
from bksdm.evaluation.measures.attributes import share
from bksdm.evaluation.measures.per_prompt import mean_score
from bksdm.evaluation.pruning.grid import Curve, One
from bksdm.evaluation.pruning.pooled import Version, pooled, pooled_dense
from bksdm.evaluation.pruning.study import Measured, collapsed
from bksdm.evaluation.pruning.sweep import (
    Damage,
    Swept,
    check_decides,
    damages,
    loss_of,
    operating_point,
)
from bksdm.evaluation.pruning.tables import curve_tables, damage_table, point_told, version_told
from bksdm.evaluation.score import Better, Items, Score
from bksdm.surgery.sparse.accounting import Sizes, accounting
from bksdm.surgery.sparse.plan import ComponentSparsity, SparsityPlan, TensorSparsity
from tests.evaluation.pruning.studies import MAGNITUDE, both, configuration

IDS = tuple(f"{i:03d}" for i in range(40))
SIZES = Sizes(text_encoder=1000, unet=1000, vae=10)
NOBODY = Path()


def right(count: int) -> Score:
    """A share of prompts."""
    return share("right", Items(IDS, tuple(float(i < count) for i in range(40))))


def fid(value: float) -> Score:
    """One number a model."""
    return Score(name="FID", value=value, better=Better.LOWER, n=40)


def error(value: float) -> Score:
    """A mean over prompts, of which lower is better."""
    return mean_score("error", Better.LOWER, Items(IDS, (value,) * 40))


def measured(sparsity: float, *scores: Score) -> Measured:
    """A U-Net all of whose weights may be pruned."""
    tensor = TensorSparsity(
        name="w", shape=(1000,), criterion="m", requested=sparsity, zeros=round(1000 * sparsity)
    )
    part = ComponentSparsity(
        component="unet", requested=sparsity, parameters=1000, tensors=(tensor,)
    )
    plan = SparsityPlan(components=(part,) if sparsity else ())
    return Measured(
        configuration=configuration(MAGNITUDE, unet=sparsity) if sparsity else None,
        seed=0,
        plan=plan,
        accounting=accounting(plan, SIZES, bytes_a_weight=4),
        scores=scores,
        folder=NOBODY,
        texts={},
    )


def swept(scores: Sequence[Score]) -> Swept:
    """At 0, 20, 40 ... %."""
    places = [0.2 * i for i in range(len(scores))]
    curve = Curve(
        name="U-Net",
        grid=One(component="unet", sparsities=places[1:]),
        methods={"magnitude": both(MAGNITUDE)},
    )
    dense = pooled_dense([measured(0.0, scores[0])])
    pairs = zip(places[1:], scores[1:], strict=True)
    versions: list[Version] = [
        pooled("U-Net", [measured(place, score)], dense) for place, score in pairs
    ]
    return Swept(curves=(curve,), dense=dense, versions=tuple(versions), decide=scores[0].name)


def only(found: Swept) -> Damage:
    (damage,) = damages(found)
    return damage


def test_a_share_of_prompts_falls_towards_nothing_and_is_told_in_points() -> None:
    found = swept([right(40), right(39), right(30), right(10)])
    # 100, 97.5, 75, 25 %: 95 % is lost a ninth of the way after 20 %, half at half of the last.
    damage = only(found)
    assert damage.knee.value == pytest.approx(0.2 + 0.2 * 2.5 / 22.5)
    assert damage.cliff.value == pytest.approx(0.5)
    assert [loss_of(v, "right") for v in found.versions] == pytest.approx([2.5, 25, 75])
    best = operating_point(found, max_loss=2.5)
    assert best is not None
    assert best.point.unet == 0.2
    assert operating_point(found, max_loss=2.0) is None
    assert "none of these loses at most 2 in right" in point_told(found, max_loss=2.0)


def test_a_mean_falls_towards_the_worst_of_the_sweep() -> None:
    found = swept([error(1.0), error(1.5), error(3.0)])
    assert only(found).cliff.value == pytest.approx(0.2 + 0.2 / 3)  # 2.0
    assert [loss_of(v, "error") for v in found.versions] == pytest.approx([0.5, 2.0])


def test_a_score_of_the_whole_set_has_a_place_but_no_interval() -> None:
    damage = only(swept([fid(10.0), fid(11.0), fid(30.0)]))
    assert damage.cliff.value == pytest.approx(0.2 + 0.2 * 9 / 19)  # 20
    assert (damage.cliff.low, damage.cliff.high) == (None, None)
    assert damage_table([damage], "FID").splitlines()[-1].endswith("29.5 %")


def test_a_sweep_in_which_nothing_gets_worse_has_no_knee() -> None:
    for scores in ([fid(18.0), fid(17.0), fid(16.0)], [error(1.0), error(0.9), error(0.95)]):
        damage = only(swept(scores))
        assert (damage.knee.value, damage.cliff.value) == (None, None)


@pytest.mark.filterwarnings("ignore:The BCa")
def test_a_version_whose_score_is_no_number_is_beyond_the_cliff_and_is_not_chosen() -> None:
    found = swept([error(1.0), error(1.05), error(1.2), error(math.nan)])
    assert only(found).cliff.value == pytest.approx(0.2 + 0.2 / 3)  # the floor is 1.2
    assert loss_of(found.versions[-1], "error") == math.inf
    best = operating_point(found, max_loss=100)
    assert best is not None
    assert best.point.unet == pytest.approx(0.4)
    damage = only(swept([fid(math.nan), fid(3.0)]))
    assert (damage.knee.value, damage.cliff.value) == (None, None)


def test_a_curve_has_a_row_a_point_with_its_true_sparsity() -> None:
    told = curve_tables(swept([right(40), right(30)])).splitlines()
    assert told[-2].split()[:3] == ["dense", "0.00", "%"]
    assert told[-1].split()[:4] == ["0/20", "20.00", "%", "75.0"]


def of_seed(made: Measured, seed: int, *, own: bool) -> Measured:
    """The same of another seed: with prompts of its own, or with the same."""
    score = next(iter(made.scores))
    ids = score.items.ids if score.items else ()
    return replace(made, seed=seed, texts={i: f"{i} of {seed}" for i in ids} if own else {})


def test_seeds_with_prompts_of_their_own_are_pooled_side_by_side() -> None:
    one, other = of_seed(measured(0.2, error(1.0)), 0, own=True), measured(0.2, error(3.0))
    other = of_seed(other, 1, own=True)
    dense = pooled_dense([of_seed(measured(0.0, error(1.0)), s, own=True) for s in (0, 1)])
    score = pooled("U-Net", [one, other], dense).scores["error"]
    assert (score.value, score.n) == (2.0, 80)
    assert pooled("U-Net", [one, other], dense).losses["error"].difference.value == 1.0


def test_items_that_seeds_share_are_no_independent_ones() -> None:
    one, other = measured(0.2, error(1.0)), of_seed(measured(0.2, error(3.0)), 1, own=False)
    dense = pooled_dense(
        [measured(0.0, error(1.0)), of_seed(measured(0.0, error(1.0)), 1, own=False)]
    )
    both = pooled("U-Net", [one, other], dense)
    assert (both.scores["error"].value, both.scores["error"].n) == (2.0, 40)
    assert both.losses["error"].difference.value == pytest.approx(1.0)


def test_a_score_of_a_whole_set_is_the_mean_of_its_seeds_with_their_range() -> None:
    whole = pooled_dense([measured(0.0, fid(1.0)), replace(measured(0.0, fid(4.0)), seed=1)])
    found = whole.scores["FID"]
    assert (found.value, found.low, found.high) == (np.mean([1.0, 4.0]), 1.0, 4.0)


def test_a_version_whose_score_is_no_number_is_told() -> None:
    dense = pooled_dense([measured(0.0, error(1.0))])
    broken = measured(0.2, *collapsed([error(1.0)]))
    version = pooled("U-Net", [broken], dense)
    assert math.isinf(loss_of(version, "error"))
    assert version_told(version, "error").endswith("error is not a number")


def test_one_number_a_model_decides_nothing() -> None:
    dense = pooled_dense([measured(0.0, error(1.0), fid(1.0))])
    check_decides(dense, "error")
    with pytest.raises(InputError, match="decide=FID: it has no value of each prompt; expected"):
        check_decides(dense, "FID")
