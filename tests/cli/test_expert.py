"""`student=expert`: from a plan and a selection to a narrow student, by the command."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bksdm.data.index import build_index
from bksdm.data.selection import Selection
from bksdm.surgery.shares import sites_of_config
from bksdm.surgery.width import WidthPlan, plan_of
from tests.conftest import tiny_unet

Cli = Callable[..., int]
CHOSEN = [0, 3, 5, 9, 32, 33, 40, 41, 44, 47]  # none of the second shard's


def tiny_plan(seed: int = 0) -> WidthPlan:
    """About half of the units of the tiny U-Net, and without two modules."""
    sites = sites_of_config(tiny_unet("sd1").config)
    gates = torch.rand(sites.gates, generator=torch.Generator().manual_seed(seed)) > 0.5
    for part in sites.slices.values():
        gates[part.start] = True
    gates[sites.units :] = True
    for name in ("up_blocks.1.resnets.2", "down_blocks.1.attentions.1"):
        gates[sites.depth_positions[name]] = False
    return plan_of(gates, sites)


@pytest.fixture
def experts(shards: Path, tmp_path: Path) -> Path:
    """What `bksdm route` leaves of two experts, under runs/way."""
    folder = tmp_path / "runs" / "way" / "experts"
    index = build_index(f"{shards}/train-*.tar")
    for i in range(2):
        (folder / str(i)).mkdir(parents=True)
        (folder / str(i) / "plan.json").write_text(tiny_plan(i).to_json())
        Selection(np.array(CHOSEN), index.fingerprint).write(folder / str(i) / "samples.npz")
    return folder


@pytest.fixture
def arguments(tiny_run: list[str]) -> list[str]:
    return [*tiny_run[1:], "student=expert", "method.min_snr_gamma=null", "trainer.max_steps=2"]


def test_smoke(run_cli: Cli, experts: Path, arguments: list[str], capsys) -> None:
    assert run_cli("train", *arguments, f"plan={experts}/1") == 0
    print(capsys.readouterr())
    assert run_cli("check", *arguments, f"plan={experts}/1", "rehearsal=1") == 0
    print(capsys.readouterr())
    assert (
        run_cli(
            "plan",
            *[a for a in arguments if a.startswith(("student", "teacher"))],
            f"plan={experts}/1",
        )
        == 0
    )
    print(capsys.readouterr().out)
    assert run_cli("push", "run=runs/way-expert-1", "repo=a/b", "dry_run=true", "license=mit") == 0
    print(capsys.readouterr().out)
    print(Path("runs/way-expert-1/README.md").read_text())
    print(sorted(Path("runs/way-expert-1/student/unet").iterdir()))
    assert run_cli("prune", "model=runs/way-expert-1", "unet=0.3", "criterion=magnitude") == 0
    print(capsys.readouterr().out)
    assert 0
