import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bksdm.evaluation.comparison import compare
from bksdm.evaluation.measures.per_prompt import PerPrompt
from bksdm.evaluation.score import Better

VALUES = {f"{i:06d}": math.sin(i) for i in range(7)}


def collected(order: list[str], batch: int) -> PerPrompt:
    values = PerPrompt()
    for start in range(0, len(order), batch):
        ids = order[start : start + batch]
        values.update(ids, torch.tensor([VALUES[name] for name in ids], dtype=torch.float64))
    return values


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_batches_and_order_do_not_matter(batch: int) -> None:
    names = list(VALUES)
    expected = collected(names, 7).score("x", Better.HIGHER)
    assert collected(names[::-1], batch).score("x", Better.HIGHER) == expected
    assert expected.value == pytest.approx(sum(VALUES.values()) / 7, abs=1e-12)
    assert expected.n == 7
    assert expected.low is not None
    assert expected.high is not None
    assert expected.low < expected.value < expected.high


def test_a_prompt_that_comes_twice_counts_once() -> None:
    names = list(VALUES)
    assert collected([*names, names[0]], 2).items() == collected(names, 7).items()


def test_nothing_measured_is_not_a_number() -> None:
    score = PerPrompt().score("x", Better.HIGHER)
    assert math.isnan(score.value)
    assert score.n == 0
    assert score.low is None


def test_two_models_are_compared_by_prompt() -> None:
    ours = collected(list(VALUES), 3)
    theirs = PerPrompt()
    theirs.update(list(VALUES), [value - 0.25 for value in VALUES.values()])
    found = compare(ours.score("x", Better.HIGHER), theirs.score("x", Better.HIGHER))
    assert found is not None
    assert found.difference.value == pytest.approx(0.25)


PROCESS = """
import json, sys
import torch, torch.distributed as dist
from bksdm.evaluation.measures.per_prompt import PerPrompt
from bksdm.evaluation.score import Better

dist.init_process_group("gloo")
values = json.loads(sys.argv[1])
mine = list(values)[dist.get_rank() :: 2]
if sys.argv[2] != "split":
    mine = [] if dist.get_rank() else list(values)
collected = PerPrompt()
collected.update(mine, torch.tensor([values[name] for name in mine], dtype=torch.float64))
score = collected.score("x", Better.HIGHER)
if dist.get_rank() == 1:
    print(json.dumps([score.value, score.low, score.high, score.items.ids, score.items.values]))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("how", ["split", "one has none"])
def test_two_processes_are_one(how: str, tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "--standalone", str(script), json.dumps(VALUES), how],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    alone = collected(list(VALUES), 7).score("x", Better.HIGHER)
    assert alone.items is not None
    expected = [alone.value, alone.low, alone.high, [*alone.items.ids], [*alone.items.values]]
    assert json.loads(done.stdout) == expected
