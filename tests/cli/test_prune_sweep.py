"""`bksdm prune` of many: a sweep from an experiment file of one's own, and a search."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

Cli = Callable[..., int]
GRID = "bksdm.evaluation.pruning.grid"


def experiment(folder: Path) -> list[str]:
    """Flags and settings of a sweep of a tiny model: two curves and a pair."""
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"a dog number {i}\n" for i in range(8)))
    one, pairs = {"_target_": f"{GRID}.One"}, {"_target_": f"{GRID}.Pairs"}
    unet = {"component": "unet", "sparsities": [0.4, 0.9]}
    mixed = {"text_encoder": "wanda", "unet": "magnitude"}
    content = {
        "defaults": [
            {"/criterion@criteria.magnitude": "magnitude"},
            {"/criterion@criteria.wanda": "wanda"},
            {"override /protocol": "paired"},
            {"override /calibration": "captions"},
        ],
        "protocol": {
            "prompts": {"path": str(prompts)},
            "sampling": {"steps": 1, "guidance": 2.0},
            "measures": {"denoising": {"draws": 1}},
        },
        "calibration": {
            "prompts": {"path": str(prompts), "count": 8},
            "sampling": {"steps": 1},
        },
        "curves": {
            "unet": {"grid": one | unet, "criteria": ["magnitude", "wanda"]},
            "pair": {"grid": pairs | {"pairs": [[0.2, 0.1]]}, "criteria": [mixed], "line": False},
        },
    }
    own = folder / "own" / "experiment"
    own.mkdir(parents=True, exist_ok=True)
    (own / "mini.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content))
    return ["--config-dir", str(folder / "own"), "experiment=mini"]


def points(folder: Path) -> list[dict[str, str]]:
    """Rows of points.csv."""
    return list(csv.DictReader((folder / "points.csv").read_text().splitlines()))


@pytest.fixture
def sweep(run_cli: Cli, tmp_path: Path, sd1_folder: Path) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        own = [*experiment(tmp_path), f"model={sd1_folder}", "out=out", *arguments]
        return run_cli("prune", *own)

    return run


def test_a_sweep_prints_and_writes_its_curves_and_goes_on_for_nothing(
    sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("max_loss=100") == 0
    told = capsys.readouterr().out
    rows = points(Path("out"))
    assert len(rows) == 1 + 5
    names = [path.name for path in Path("out").iterdir() if path.is_file()]
    pictures = {"curve-denoising-loss.png", "pictures-unet.png", "pictures-pair.png"}
    assert set(names) == {"points.csv", "summary.json", *pictures}
    for name in pictures:
        with Image.open(Path("out") / name) as image:
            assert min(image.size) > 60
    zeros = [row["zeros in unet"] for row in rows if row["requested unet"] == "0.9"]
    assert f"{100 * float(zeros[0]):.2f} %" in told
    best = json.loads(Path("out/summary.json").read_text())["operating_point"]
    assert (best["curve"], best["text_encoder"], best["unet"]) == ("unet", 0.0, 0.9)
    assert "operating point: text encoder/U-Net 0/90 % with" in told
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*/**/*.*")}
    text = Path("out/points.csv").read_text()
    assert sweep("max_loss=0") == 0
    again = capsys.readouterr().out
    assert "5 of 5 versions are there" in again
    assert Path("out/points.csv").read_text() == text
    assert {path: path.stat().st_mtime_ns for path in Path("out").glob("*/**/*.*")} == before
    assert again.split("operating point")[0].split("versions are there")[1].strip() in told


def test_a_search_tells_the_split_and_the_command_that_writes_it(
    run_cli: Cli, sd1_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(tmp_path)
    judged = [
        "protocol=paired",
        "protocol.prompts.path=prompts.txt",
        "protocol.sampling.steps=1",
        "protocol.measures.denoising.draws=1",
    ]
    wanted = ["find=best", f"model={sd1_folder}", "step=0.3", "max_loss=0.002", "layers=linear"]
    assert run_cli("prune", *wanted, *judged, "out=s") == 0
    told = capsys.readouterr().out
    best = json.loads(Path("s/best.json").read_text())
    first, *tried = points(Path("s"))
    dense = float(first["denoising loss"])
    assert (best["evaluations"], best["lattice"]) == (len(tried), 15)
    assert f"{len(tried)} evaluations, of 15 points of the lattice" in told
    good = [row for row in tried if float(row["denoising loss"]) - dense <= 0.002]
    most = max(good, key=lambda row: float(row["zeros in text encoder + U-Net"]))
    found = (best["text_encoder"], best["unet"])
    assert found == (float(most["requested text_encoder"]), float(most["requested unet"]))
    command = re.findall(r"to write it: bksdm prune (.*)", told)[0].split()
    assert f"text_encoder={found[0]:g}" in command
    assert f"unet={found[1]:g}" in command
    assert run_cli("prune", *command, "out=best", "export.fresh_process=false") == 0
    parts = json.loads(Path("best/sparsity.json").read_text())["components"]
    assert {part["requested"] for part in parts} == {share for share in found if share}


def test_a_search_in_which_everything_loses_too_much_says_so(
    run_cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the embedded world, of its text encoder alone: half of that is too much."""
    few = [
        "include=[self_attn,mlp]",
        "protocol.prompts.count=8",
        "protocol.sampling.steps=4",
        "protocol.measures={distribution:null,denoising:null,latent_mse:null,ssim:null}",
    ]
    assert run_cli("prune", "find=best", "step=0.5", "max_loss=0", *few, "out=s") == 0
    told = capsys.readouterr().out
    assert "nothing loses at most 0 in all attributes right; 1 evaluations, of 1 points" in told
    best = json.loads(Path("s/best.json").read_text())
    assert (best["text_encoder"], best["unet"]) == (0, 0)
