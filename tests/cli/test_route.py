"""`bksdm route` on a tiny teacher: the whole way, resumed, on two processes, and refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bksdm.data.selection import Selection
from bksdm.export.router import read_router
from bksdm.models.encoder import load_saved
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.surgery.sites import prunable_sites
from bksdm.surgery.width import WidthPlan, gates_of
from tests.conftest import tiny_run_arguments
from tests.training.metrics import assert_same_losses
from tests.training.processes import torchrun
from tests.training.runs import interrupted, same_weights

Cli = Callable[..., int]
NOT_OF_ROUTE = ("samples.", "export.")


@pytest.fixture
def tiny_route(sd1_folder: Path, shards: Path) -> list[str]:
    """Arguments of a four-step training of a tiny teacher's router."""
    arguments = tiny_run_arguments(sd1_folder, shards)
    kept = [item for item in arguments[1:] if not item.startswith(NOT_OF_ROUTE)]
    own = ["encoder=teacher_text", "method=aptp", "method.experts=3", "method.warmup=0.25"]
    own += ["analysis=false"]  # see test_route_analysis
    rates = ["optimizer.lr=0.05", "optimizer.warmup_steps=0", "speed=plain", "name=routed"]
    # As the experiment of named teachers has it otherwise: SD 2.1.
    return ["route", *kept, "experiment=route_shapes", *own, *rates]


def test_a_router_goes_the_whole_way_and_resumes(
    run_cli: Cli,
    tiny_route: list[str],
    sd1_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = tmp_path / "runs" / "routed"
    assert run_cli(*tiny_route, "checkpoint.keep_every_n_steps=2") == 0
    told = json.loads((whole / "routing.json").read_text())
    printed = capsys.readouterr().out
    assert f"{told['mean']:.2%} of the teacher's MACs (true counting), target 60.00%" in printed
    assert 0.55 < told["mean"] <= 0.6
    _check_files(whole, sd1_folder, told)

    assert run_cli(*tiny_route) == 0
    assert "is finished: 4 steps; router in" in capsys.readouterr().out

    resumed = interrupted(whole, whole.with_name("resumed"), step=2)
    assert run_cli(*tiny_route, "name=resumed") == 0
    assert same_weights(whole, resumed.path)
    assert json.loads(resumed.routing.read_text()) == told

    assert run_cli(*tiny_route, "method.experts=2") == 2
    assert "was started with other settings: method.experts" in capsys.readouterr().err
    assert run_cli(*tiny_route, "trainer.max_steps=40") == 2
    assert "at step 4 the warm-up would begin again" in capsys.readouterr().err
    checkpoint = whole / "checkpoints" / "last.ckpt"
    for other, said in (
        (["export", f"checkpoint={checkpoint}", "out=x"], "holds a router; expected a student's"),
        (["generate", "model=runs/routed", "prompt=a vase"], "draws nothing itself"),
    ):
        assert run_cli(*other) == 2
        assert said in capsys.readouterr().err
    shutil.rmtree(whole / "checkpoints")
    assert run_cli(*tiny_route) == 2
    assert "has experts, and no checkpoint to go on from" in capsys.readouterr().err
    assert (whole / "experts").is_dir()


def _check_files(folder: Path, teacher: Path, told: dict[str, object]) -> None:
    """Every sample in one expert's share, and where the router in the files sends its caption."""
    saved = read_router(folder / "router")
    loaded = load_teacher(TeacherSource(name="tiny", path=str(teacher)))
    encoder = load_saved(saved.encoder, loaded)
    used = [name for name in saved.plans if name]
    selections = [Selection.read(folder / name / "samples.npz") for name in used]
    numbers = np.concatenate([selection.samples for selection in selections])
    assert sorted(numbers.tolist()) == list(range(48))
    sites = prunable_sites(loaded.unet)
    for name in used:
        plan = WidthPlan.from_json((folder / name / "plan.json").read_text())
        assert gates_of(plan, sites).shape == (sites.gates,)
    routes = saved.router.route(encoder.embed(["a big red circle on a white background"]))
    assert saved.plans[int(routes)] is not None
    experts = told["experts"]
    assert isinstance(experts, list)
    assert sum(each["samples"] for each in experts) == 48


def test_the_published_recipe_runs_too(run_cli: Cli, tiny_route: list[str], tmp_path: Path) -> None:
    assert run_cli(*tiny_route, "method=aptp_published", "trainer.max_steps=2") == 0
    told = json.loads((tmp_path / "runs" / "routed" / "routing.json").read_text())
    assert told["counting"] == "published"


def test_experts_may_be_of_one_size(
    run_cli: Cli, tiny_route: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*tiny_route, "trainer.max_steps=2", "method.same_size=true"]
    assert run_cli(*given) == 0
    told = json.loads((tmp_path / "runs" / "routed" / "routing.json").read_text())
    shares = [each["macs_share"] for each in told["experts"]]
    assert len(shares) == 3
    assert all(0.55 < share <= 0.6 for share in shares)
    assert run_cli(*given, "name=other", "method.meet_budget=false") == 2
    assert "expected both true" in capsys.readouterr().err


def test_two_processes_are_one(run_cli: Cli, tiny_route: list[str], tmp_path: Path) -> None:
    """With as many samples at once: Sinkhorn and the contrastive term look at all of them. Of the
    validation samples the second process has one less.
    """
    one = [*tiny_route, "data.batch_size=8", "trainer.max_steps=2", "data.validation_samples=7"]
    assert run_cli(*one, "name=one") == 0
    torchrun([*one, "name=two", "data.batch_size=4"], tmp_path)
    # A mean of each process's mean, and not of all rows as the other terms are.
    own = [f"val/{term}" for term in ("denoising", "output_kd", "block_kd", "loss")]
    runs = (tmp_path / "runs" / name for name in ("one", "two"))
    assert_same_losses(*runs, rel=2e-4, without=own)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["method.experts=49"], "method.experts=49: expected at most"),
        (["method.target=0.01"], "method.target=0.01: expected 0."),
        (["encoder=bert"], "encoder"),
        (["data.mode=stream"], "data.mode=stream: captions by number need"),
        (["speed.gradient_checkpointing=true"], "the gates have gone"),
        (["trainer.strategy=fsdp2"], "trainer.strategy=fsdp2: a router is whole"),
        (["method.warmup=4"], "method.warmup=4 takes all of trainer.max_steps=4"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    run_cli: Cli,
    tiny_route: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    told: str,
) -> None:
    assert run_cli(*tiny_route, *changes) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs" / "routed").exists()


def test_methods_are_of_one_verb(
    run_cli: Cli, tiny_run: list[str], shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [f"data.{name}={shards}/train-*.tar" for name in ("shards", "validation_shards")]
    assert run_cli("route", *data, "method=bk_sdm") == 2
    assert "method: that trains a student; use `bksdm train`" in capsys.readouterr().err
    assert run_cli(*tiny_run, "method=aptp") == 2
    assert "method: that trains a router; use `bksdm route`" in capsys.readouterr().err


def test_an_architecture_of_its_own_folder_is_made_without_training(
    run_cli: Cli, tiny_route: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again writes the same; another one nothing."""
    plan = tmp_path / "runs" / "routed" / "experts" / "0" / "plan.json"
    chosen = [item for item in tiny_route if not item.startswith(("method", "encoder="))]
    assert run_cli(*chosen, "method=width_magnitude") == 0
    assert "of the teacher's; train it: bksdm train student=expert" in capsys.readouterr().out
    first = plan.read_text()
    assert run_cli(*chosen, "method=width_magnitude") == 0
    assert plan.read_text() == first
    assert run_cli(*chosen, "method=width_random") == 2
    assert "was made with other settings: method.worth" in capsys.readouterr().err
    assert run_cli(*tiny_route) == 2
    assert "has experts, and no checkpoint" in capsys.readouterr().err
    assert plan.read_text() == first
