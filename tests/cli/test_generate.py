import csv
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from bksdm.cli.generate import labels
from bksdm.errors import InputError
from bksdm.export.pipeline import write_guidance

Cli = Callable[..., int]
PROMPTS = ("a red circle", "a blue square")


@pytest.fixture
def models(sd1_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders; the second has other weights."""
    folders = tmp_path / "one", tmp_path / "other"
    for folder in folders:
        shutil.copytree(sd1_folder, folder)
    disturb(folders[1])
    return folders


def disturb(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    with torch.no_grad():
        pipeline.unet.conv_out.bias.add_(1)
    pipeline.unet.save_pretrained(folder / "unet")


def record(folder: Path) -> list[dict[str, str]]:
    with (folder / "prompts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_every_picture_can_be_made_again_alone(run_cli: Cli, models: tuple[Path, Path]) -> None:
    assert (
        run_cli("generate", f"model={models[0]}", f"prompt={list(PROMPTS)}", "steps=2", "seed=5")
        == 0
    )
    out = Path("outputs/generate")
    rows = record(out)
    assert {row["image"] for row in rows} == {path.name for path in out.glob("0*.png")}
    assert [row["prompt"] for row in rows] == [text for text in PROMPTS for _ in range(4)]
    row = rows[6]
    assert (row["image"], row["seed"], row["model"]) == ("000001-s7.png", "7", str(models[0]))
    again = [f"{key}={row[key]}" for key in ("model", "prompt", "seed", "steps", "guidance")]
    assert run_cli("generate", *again, "images_per_prompt=1", "out=again") == 0
    assert abs(pixels(out / row["image"]) - pixels(Path("again/000000-s7.png"))).max() <= 1


def test_models_side_by_side_get_the_same_prompts_and_seeds(
    run_cli: Cli, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    compare = f"compare=[{models[0]},{models[1]}]"
    assert (
        run_cli(
            "generate",
            compare,
            f"prompt={list(PROMPTS)}",
            "steps=2",
            "out=o",
            "images_per_prompt=2",
        )
        == 0
    )
    ours, theirs = record(Path("o/one")), record(Path("o/other"))
    for mine, other in zip(ours, theirs, strict=True):
        assert [mine[key] for key in ("image", "prompt", "seed")] == [
            other[key] for key in ("image", "prompt", "seed")
        ]
        assert mine["weights"] != other["weights"]
    sheet = pixels(Path("o/grid.png"))
    head = sheet.shape[0] - 4 * 134
    for column, folder in enumerate(("one", "other")):
        for row, mine in enumerate(ours):
            picture = pixels(Path("o") / folder / mine["image"]).repeat(8, 0).repeat(8, 1)
            top, left = head + row * 134, 256 + column * 134
            assert (sheet[top : top + 128, left : left + 128] == picture).all()
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if " s an image (rough" in line] == ["one", "other"]


@pytest.mark.parametrize(
    ("name", "text", "files"),
    [
        ("p.txt", "a red circle\na cat, a dog\n", ["000000-s0.png", "000001-s0.png"]),
        ("p.csv", 'id,text\nx,a red circle\ny,"a cat, a dog"\n', ["x-s0.png", "y-s0.png"]),
        (
            "p.jsonl",
            '{"id": "x", "text": "a red circle"}\n{"id": "y", "text": "a cat, a dog"}\n',
            ["x-s0.png", "y-s0.png"],
        ),
    ],
)
def test_prompts_come_from_a_file(
    run_cli: Cli, sd1_folder: Path, tmp_path: Path, name: str, text: str, files: list[str]
) -> None:
    (tmp_path / name).write_text(text)
    few = ["steps=1", "images_per_prompt=1", "out=o"]
    assert run_cli("generate", f"model={sd1_folder}", f"prompts={name}", *few) == 0
    assert [(row["image"], row["prompt"]) for row in record(Path("o"))] == list(
        zip(files, ["a red circle", "a cat, a dog"], strict=True)
    )


def test_many_prompts_get_several_pages(run_cli: Cli, sd1_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("".join(f"prompt {i}\n" for i in range(30)))
    few = ["steps=1", "images_per_prompt=1", "out=o"]
    assert run_cli("generate", f"model={sd1_folder}", "prompts=p.txt", *few) == 0
    pages = sorted(Path("o").glob("grid*"))
    assert [path.name for path in pages] == ["grid-01.png", "grid-02.png"]
    first, second = (Image.open(path).height for path in pages)
    assert first - second == (24 - 6) * 134


def test_many_pictures_of_a_prompt_take_several_rows(run_cli: Cli, sd1_folder: Path) -> None:
    many = ["steps=1", "images_per_prompt=11", "out=o", "guidance=1"]
    assert run_cli("generate", f"model={sd1_folder}", "prompt=x", *many) == 0
    assert Image.open("o/grid.png").width == 256 + 8 * 134 + 6
    assert Image.open("o/grid.png").height > 2 * 134


def test_the_same_command_again_makes_only_what_is_missing(
    run_cli: Cli, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", f"model={models[0]}", "prompt=a red circle", "steps=2", "out=o"]
    out, names = Path("o"), [f"000000-s{seed}.png" for seed in range(4)]
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert run_cli(*command) == 0
    before = {name: (out / name).stat().st_mtime_ns for name in names}
    (out / names[1]).unlink()
    assert run_cli(*command) == 0
    changed = [name for name in names if (out / name).stat().st_mtime_ns != before[name]]
    assert changed == [names[1]]
    capsys.readouterr()
    assert run_cli(*command) == 0
    assert "all images were there" in capsys.readouterr().out
    assert run_cli(*command, "steps=3", "images_per_prompt=2") == 0
    assert {row["image"]: row["steps"] for row in record(out)} == dict(
        zip(names, "3322", strict=True)
    )
    disturb(models[0])
    weights = {row["weights"] for row in record(out)}
    assert run_cli(*command) == 0
    assert not weights & {row["weights"] for row in record(out)}
    assert (out / "mine.txt").read_text() == "mine"


def test_a_prompts_file_of_others_is_not_replaced(
    run_cli: Cli, sd1_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("o").mkdir()
    Path("o/prompts.csv").write_text("id,text\nx,a red circle\n")
    arguments = [f"model={sd1_folder}", "prompts=o/prompts.csv", "out=o", "steps=1"]
    assert run_cli("generate", *arguments) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert Path("o/prompts.csv").read_text() == "id,text\nx,a red circle\n"
    assert len(list(Path("o").iterdir())) == 1


def test_ctrl_c_leaves_finished_pictures_and_the_command_goes_on(
    run_cli: Cli, sd1_folder: Path
) -> None:
    count = 40
    command = ["generate", f"model={sd1_folder}", "prompt=x", "steps=2", "out=o", "batch_size=1"]
    command.append(f"images_per_prompt={count}")

    def interrupt() -> None:
        while not Path("o/000000-s2.png").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as caught:
        run_cli(*command)
    thread.join()
    assert caught.value.code == 128 + signal.SIGINT
    finished = {row["image"] for row in record(Path("o"))}
    assert 3 <= len(finished) < count
    assert finished == {path.name for path in Path("o").glob("*.png")}
    before = {name: (Path("o") / name).stat().st_mtime_ns for name in finished}
    assert run_cli(*command) == 0
    assert len(record(Path("o"))) == count
    assert before == {name: (Path("o") / name).stat().st_mtime_ns for name in finished}


def test_a_student_has_the_guidance_of_its_run(run_cli: Cli, tiny_run: list[str]) -> None:
    assert run_cli(*tiny_run, "samples.sampling.guidance=2.5", "name=a") == 0
    assert run_cli("export", "run=runs/a", "out=exported") == 0
    few = ["prompt=x", "steps=1", "images_per_prompt=1", "out=o"]
    assert run_cli("generate", "compare=[runs/a,runs/a/student,exported]", *few) == 0
    found = [record(Path("o") / name)[0]["guidance"] for name in ("a", "student", "exported")]
    assert found == ["2.5"] * 3


def test_guidance_is_what_is_asked_for_or_what_the_folder_says(
    run_cli: Cli, models: tuple[Path, Path]
) -> None:
    few = ["prompt=x", "steps=1", "images_per_prompt=1"]
    write_guidance(models[1], 4.0)
    compare = f"compare=[{models[0]},{models[1]},shapes]"
    assert run_cli("generate", compare, *few, "out=o") == 0
    names = ("one", "other", "shapes")
    assert [record(Path("o") / name)[0]["guidance"] for name in names] == ["7.5", "4.0", "3.0"]
    assert run_cli("generate", f"model={models[1]}", *few, "guidance=2", "out=p") == 0
    assert record(Path("p"))[0]["guidance"] == "2.0"


def test_sampling_is_as_asked(run_cli: Cli, sd1_folder: Path) -> None:
    settings = [
        "scheduler=DPMSolverMultistepScheduler",
        "scheduler_settings={solver_order: 1}",
        "size=24",
    ]
    few = ["prompt=a red circle", "steps=3", "images_per_prompt=1"]
    assert run_cli("generate", f"model={sd1_folder}", *few, *settings, "out=a") == 0
    assert run_cli("generate", f"model={sd1_folder}", *few, "size=24", "out=b") == 0
    assert pixels(Path("a/000000-s0.png")).shape == (24, 24, 3)
    assert (pixels(Path("a/000000-s0.png")) != pixels(Path("b/000000-s0.png"))).any()
    (row,) = record(Path("a"))
    assert row["scheduler"] == "DPMSolverMultistepScheduler"
    assert row["scheduler_settings"] == '{"solver_order": 1}'
    assert record(Path("b"))[0]["scheduler"] == "DDPMScheduler"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompt=x", "prompts=p.txt"], ["prompt=", "prompts=", "both given"]),
        ([], ["both missing"]),
        (["prompts=none.txt"], ["none.txt", "no such file"]),
        (["prompt=[]"], ["prompt=[]", "none empty"]),
        (["prompt=[a,'']"], ["none empty"]),
        (["prompt=x", "model=shapes", "compare=[shapes]"], ["model=shapes", "one of them"]),
        (["prompt=x", "model=[a,b]"], ["compare="]),
        (["prompt=x", "compare=shapes"], ["compare=shapes", "a list"]),
        (["prompt=x", "compare=[]"], ["compare=[]", "a list"]),
        (["prompt=x", "compare=[shapes,shapes]"], ["same name"]),
        (["prompt=x", "compare=[shapes,./nothing/here]"], ["./nothing/here"]),
        (["prompt=x", "images_per_prompt=0"], ["images_per_prompt=0", "at least 1"]),
        (["prompt=x", "seed=-1"], ["seed=-1", "at least 0"]),
        (["prompt=x", "steps=0"], ["generate: steps=0", "at least 1"]),
        (["prompt=x", "size=20"], ["size=20", "multiple of 8"]),
        (["prompt=x", "scheduler=Nothing"], ["generate: scheduler=Nothing", "diffusers"]),
        (["prompt=x", "scheduler_settings=3"], ["scheduler_settings"]),
        (["prompt=x", "guidance=much"], ["guidance=much", "a number"]),
    ],
)
def test_refusals(
    run_cli: Cli, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    assert run_cli("generate", *arguments) == 2
    said = capsys.readouterr()
    assert all(word in said.err for word in words), said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not Path("outputs").exists()


def test_short_names_tell_models_apart() -> None:
    assert labels(["shapes", "runs/a", "runs/b"]) == {
        "shapes": "shapes",
        "a": "runs/a",
        "b": "runs/b",
    }
    names = ["runs/a/student", "runs/b/student"]
    assert list(labels(names)) == ["a/student", "b/student"]
    with pytest.raises(InputError, match="same name"):
        labels(["runs/a", "runs/a/"])
