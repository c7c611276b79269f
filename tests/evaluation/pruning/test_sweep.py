"""Sweeps of tiny pipelines: they go on where they were, and say what their tables say."""

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bksdm.evaluation.fingerprint import part_hashes
from bksdm.evaluation.pruning.damage import CLIFF, KNEE, crossing
from bksdm.evaluation.pruning.grid import One, Pairs, Together
from bksdm.evaluation.pruning.sweep import Curve, Swept, damages, loss_of, operating_point, sweep
from bksdm.evaluation.pruning.tables import damage_table, write_points, write_summary
from bksdm.evaluation.results import RESULTS
from bksdm.surgery.sparse.layers import Selection
from tests.evaluation.pruning.studies import MAGNITUDE, RANDOM, WANDA, both, quiet, study

CURVES = (
    Curve(
        name="text encoder",
        grid=One(component="text_encoder", sparsities=(0.9, 0.3)),
        methods={"magnitude": both(MAGNITUDE), "random": both(RANDOM)},
    ),
    Curve(
        name="convs",
        grid=One(component="unet", sparsities=(0.5,)),
        methods={"magnitude": both(MAGNITUDE)},
        selection=Selection(layers="linear+conv"),
    ),
    Curve(
        name="pairs",
        grid=Pairs(pairs=((0.2, 0.8), (0.8, 0.2))),
        methods={"wanda+magnitude": {"text_encoder": WANDA, "unet": MAGNITUDE}},
        line=False,
    ),
)
SEEDS = (0, 1)
VERSIONS = 2 * 2 + 1 + 2


def swept_in(folder: Path) -> tuple[Swept, str]:
    """The sweep and its points.csv."""
    made = study(folder)
    found = sweep(made, CURVES, SEEDS)
    assert part_hashes(made.pipeline) == part_hashes(quiet())
    return found, write_points([found.dense, *found.versions], folder).read_text()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Swept, str]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, *swept_in(folder)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def measured_at(folder: Path) -> dict[str, int]:
    """When each version's results were written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in sorted(folder.glob(f"*/{RESULTS}"))}


def mean(found: Sequence[dict[str, str]], column: str) -> float:
    return sum(float(row[column]) for row in found) / len(found)


def test_there_is_a_row_for_every_version_and_seed_and_the_dense_model(
    once: tuple[Path, Swept, str],
) -> None:
    folder, swept, text = once
    found = rows(text)
    assert len(found) == (1 + VERSIONS) * len(SEEDS)
    assert [row["method"] for row in found[:2]] == ["dense", "dense"]
    asked = [(r["curve"], r["requested text_encoder"], r["requested unet"]) for r in found[2::2]]
    assert asked == [
        *[("text encoder", "0.3", "0.0"), ("text encoder", "0.9", "0.0")] * 2,
        ("convs", "0.0", "0.5"),
        ("pairs", "0.2", "0.8"),
        ("pairs", "0.8", "0.2"),
    ]
    assert len(swept.versions) == VERSIONS
    assert len(measured_at(folder)) == (1 + VERSIONS) * len(SEEDS)


def test_rows_count_the_zeros_that_the_folders_list(once: tuple[Path, Swept, str]) -> None:
    folder, _, text = once
    whole = {
        name: sum(p.numel() for p in getattr(quiet(), name).parameters())
        for name in ("text_encoder", "unet")
    }
    listed = []
    for path in sorted(folder.glob("*/sparsity.json")):
        parts = json.loads(path.read_text())["components"]
        zeros = {c["component"]: sum(t["zeros"] for t in c["tensors"]) for c in parts}
        shares = {name: zeros.get(name, 0) / whole[name] for name in whole}
        listed.append((shares["text_encoder"], shares["unet"]))
    found = [
        (float(row["zeros in text_encoder"]), float(row["zeros in unet"]))
        for row in rows(text)
        if row["method"] != "dense"
    ]
    assert sorted(found) == sorted(listed)


def test_the_same_sweep_again_measures_nothing(
    once: tuple[Path, Swept, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(once[0], tmp_path / "again"))
    before = measured_at(folder)
    swept, text = swept_in(folder)
    assert text == once[2]
    assert measured_at(folder) == before
    assert damages(swept) == damages(once[1])


def test_a_version_whose_folder_is_gone_is_the_only_one_made_again(
    once: tuple[Path, Swept, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(once[0], tmp_path / "again"))
    gone = next(folder.glob("wanda-magnitude-80-20-*seed1*"))
    shutil.rmtree(gone)
    before = measured_at(folder)
    _, text = swept_in(folder)
    assert text == once[2]
    after = measured_at(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {gone.name}


def test_a_sweep_that_was_interrupted_goes_on_to_the_same_csv(
    once: tuple[Path, Swept, str], tmp_path: Path
) -> None:
    done: list[int] = []

    def halt(count: int) -> None:
        done.append(count)
        if len(done) == 3:
            raise KeyboardInterrupt

    made = study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        sweep(made, CURVES, SEEDS, advance=halt)
    assert len(measured_at(tmp_path)) == 1 + 3
    assert swept_in(tmp_path)[1] == once[2]


def test_a_sweep_of_more_keeps_what_is_there(once: tuple[Path, Swept, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(once[0], tmp_path / "more"))
    before = measured_at(folder)
    more = Curve(name="other", grid=Together(unet=(0.3,), offset=0.125), methods=CURVES[0].methods)
    sweep(study(folder), [CURVES[0], more], [0])
    after = measured_at(folder)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2


def test_losses_are_paired_differences_of_the_csv(once: tuple[Path, Swept, str]) -> None:
    _, swept, text = once
    found = rows(text)
    dense = mean(found[:2], "denoising loss")
    for i, version in enumerate(swept.versions):
        own = mean(found[2 + 2 * i : 4 + 2 * i], "denoising loss")
        assert loss_of(version, "denoising loss") == pytest.approx(own - dense, rel=1e-6)
        assert version.losses["denoising loss"].n == 10  # prompts of both seeds


def test_the_operating_point_has_the_most_zeros_of_those_that_lose_little(
    once: tuple[Path, Swept, str],
) -> None:
    _, swept, text = once
    found = rows(text)
    dense = mean(found[:2], "denoising loss")
    pairs = [found[i : i + 2] for i in range(2, len(found), 2)]
    losses = [mean(pair, "denoising loss") - dense for pair in pairs]
    zeros = [mean(pair, "zeros in text encoder + U-Net") for pair in pairs]
    for limit in (*losses, -1.0, 10.0):
        fits = [i for i, loss in enumerate(losses) if loss <= limit + 1e-12]
        best = operating_point(swept, max_loss=limit + 1e-12)
        if not fits:
            assert best is None
            continue
        at = max(fits, key=lambda i: zeros[i])
        assert best is not None
        assert best.true_sparsity("both") == pytest.approx(zeros[at])


def test_knees_and_cliffs_follow_from_the_csv(once: tuple[Path, Swept, str]) -> None:
    _, swept, text = once
    found = rows(text)
    pairs = [found[i : i + 2] for i in range(0, len(found), 2)]
    losses = [mean(pair, "denoising loss") for pair in pairs]
    known = {(d.curve, d.label, d.score): d for d in damages(swept)}
    for label, at in (("magnitude", (0, 1, 2)), ("random", (0, 3, 4))):
        places = [mean(pairs[i], "zeros in text_encoder") for i in at]
        qualities = [-losses[i] for i in at]
        damage = known["text encoder", label, "denoising loss"]
        for threshold, share in ((damage.knee, KNEE), (damage.cliff, CLIFF)):
            level = qualities[0] - share * (qualities[0] + max(losses))
            wanted = crossing(np.array(places), np.array(qualities), level)
            assert (threshold.value or float("inf")) == pytest.approx(wanted)
    assert not any(curve == "pairs" for curve, _, _ in known)  # it is no line
    assert not any(score.startswith("SSIM") for _, _, score in known)  # neither way is good


def test_the_summary_is_json_of_the_same(once: tuple[Path, Swept, str], tmp_path: Path) -> None:
    _, swept, _ = once
    found = damages(swept)
    told = json.loads(write_summary(swept, found, tmp_path, max_loss=10).read_text())
    assert (told["decide"], told["rule"]) == ("denoising loss", {"knee": 0.05, "cliff": 0.5})
    assert len(told["damage"]) == len(found)
    best = operating_point(swept, max_loss=10)
    assert best is not None
    assert told["operating_point"]["accounting"]["zeros"] == best.measured[0].accounting.zeros
    assert len(damage_table(found, "denoising loss").splitlines()) == 3 + 3
    assert os.listdir(tmp_path) == ["summary.json"]
