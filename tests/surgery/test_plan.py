import pytest

from bksdm.errors import InputError
from bksdm.surgery.plan import BASE, SMALL, TINY, BlockPlan, identity


@pytest.mark.parametrize("plan", [BASE, SMALL, TINY, BlockPlan(down=((0,), (0, 1)), mid=True)])
def test_json_round_trip(plan: BlockPlan) -> None:
    assert BlockPlan.from_json(plan.to_json()) == plan


def test_lists_are_frozen_so_that_plans_are_values() -> None:
    assert BlockPlan(down=[[0], [0, 1]], mid=False) == BlockPlan(down=((0,), (0, 1)), mid=False)  # type: ignore[arg-type]
    assert hash(BASE) == hash(BlockPlan(down=((0,),) * 4, mid=True))


@pytest.mark.parametrize("down", [(), ((),), ((1,),), ((0, 0),), ((0, 2, 1),), (0,)])
def test_patterns_that_are_no_plan_are_refused(down: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InputError, match="plan down"):
        BlockPlan(down=down, mid=True)


def test_up_layers_mirror_down_layers() -> None:
    assert BASE.up(0, layers=2) == (0, 2)  # the published pattern, not the first two
    assert identity((2, 2)).up(1, layers=2) == (0, 1, 2)
    assert BlockPlan(down=((0, 2),), mid=True).up(0, layers=3) == (0, 1, 3)


def test_an_up_half_has_one_layer_more_than_its_down_half() -> None:
    for kept in [(0,), (0, 1), (0, 3), (0, 1, 2, 3)]:
        up = BlockPlan(down=(kept,), mid=True).up(0, layers=4)
        assert len(up) == len(kept) + 1
        assert {up[0], up[-1]} == {0, 4}
