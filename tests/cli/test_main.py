"""Bad input: exit code 2, one line on stderr that names the value and the remedy, nothing lost."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.cli.main import VERBS, follow_teacher, quoted_text
from bksdm.errors import InputError

Cli = Callable[..., int]


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_help_lists_every_verb(run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], ["'fly'", "train"]),
        (["train", "student=huge"], ["student/huge", "tiny"]),
        (["train", "teacher=sd41"], ["sd41", "sd14", "Hub id"]),
        (["train", "optimizer.lrr=1"], ["no setting 'optimizer.lrr'", "--cfg job"]),
        (["train", "launcher.nodes=2"], ["launcher.nodes", "launcher=slurm"]),
        (["train", "+bogus=1"], ["+bogus=1", "cannot be added"]),
        (["train", "trainer.max_steps=0"], ["max_steps=0", "at least 1"]),
        (["train", "data.shards=/no/such/shard.tar"], ["/no/such/shard.tar", "bksdm prepare"]),
        (["train", "optimizer.lr=-1"], ["optimizer.lr=-1", "above 0"]),
        (["train", "optimizer.lr=abc"], ["optimizer.lr=abc", "a number, above 0"]),
        (["train", "optimizer.betas=[0.9]"], ["betas=[0.9]", "two numbers"]),
        (["train", "optimizer.eps=true"], ["eps=True", "a number"]),
        (["train", "optimizer.schedule=piecewise_constant"], ["piecewise_constant", "cosine"]),
        (["train", "method.gradient_clip=-1"], ["gradient_clip=-1", "above 0"]),
        (["train", "method.min_snr_gamma=x"], ["min_snr_gamma=x", "a number"]),
        (["train", "ema_decay=7"], ["ema_decay=7", "below 1"]),
        (["train", "samples.every_n_steps=-3"], ["samples.every_n_steps=-3", "at least 0"]),
        (["train", "samples.prompts=[]"], ["samples.prompts=[]", "at least one"]),
        (["train", "name=null"], ["name=null", "run's folder"]),
        (["train", "logger=wandb"], ["wandb", "not installed"]),
        (["train", "logger.extra=foo"], ["logger.extra=foo", "logger=wandb"]),
        (
            ["train", "trainer.strategy=fsdp2", "speed.channels_last=true"],
            ["fsdp2", "speed.channels_last=false"],
        ),
        (["train", "method.init=magic"], ["magic", "teacher or random"]),
        (["train", "optimizer.schedule=zigzag"], ["zigzag", "cosine"]),
        (["train", "trainer.precision=16-mixed"], ["16-mixed", "bf16-mixed"]),
        (["train", "data.resolution=abc"], ["data.resolution=abc", "expected a whole number"]),
        (["train", "data.caption_dropout=7"], ["data.caption_dropout=7", "0 and at most 1"]),
        (["train", "data.workers=-1"], ["data.workers=-1", "at least 0"]),
        (["train", "data.flip=maybe"], ["data.flip=maybe", "true or false"]),
        (["train", "data.mode=random"], ["data.mode=random", "exact, stream"]),
        (["train", "data.shards=[[]]"], ["shards are named []"]),
        (["train", "foo"], ["foo", "key=value"]),
        (["prepare", "out=null"], ["out=None", "a folder"]),
        (["prepare", "seed=-1"], ["seed=-1", "at least 0"]),
        (["train", "trainer.devices=two"], ["devices=two", "at least 1"]),
        (["train", "trainer.num_nodes=2"], ["num_nodes=2", "torchrun or srun"]),
        (["train", "data.global_batch=12"], ["12", "batch_size=8", "use data.batch_size=6"]),
        (["train", "data.resolution=60"], ["resolution=60", "multiple of 64"]),
        (["plan", "teacher=sd14", "student.down=[[0],[0],[0],[0],[0]]"], ["5 stages", "has 4"]),
        (["plan", "teacher=sd14", "student.down=[[0,2],[0],[0],[0]]"], ["layer 2 of down stage 0"]),
        (["plan", "teacher=sd14", "student.down=3"], ["down=3"]),
        (["plan", "format=xml"], ["xml", "json"]),
        (["plan", "teacher=/no/such/folder"], ["/no/such/folder"]),
        (["generate", "model=/no/such/model", "prompt=x"], ["/no/such/model"]),
        (["generate", "model=shapes"], ["prompt= and prompts= are both missing"]),
        (["evaluate", "model=nobody/nothing", "baseline=null"], ["nobody/nothing"]),
        (["export", "run=runs/none"], ["runs/none"]),
        (["prepare", "source.train_samples=0"], ["source.train_samples=0"]),
        (["prepare", "source.train_samples=ten"], ["ten"]),
        (["prepare", "source=laion"], ["source/laion", "coco", "folder", "shapes"]),
    ],
)
def test_bad_input_gets_one_line(
    run_cli: Cli,
    shards: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: list[str],
) -> None:
    if arguments[0] == "train" and "data.shards" not in arguments[-1]:
        arguments = [
            "train",
            f"data.shards={shards}/train-*.tar",
            f"data.validation_shards={shards}/validation-*.tar",
            "data.global_batch=8",
            "data.batch_size=8",
            *arguments[1:],
        ]
    assert run_cli(*arguments) == 2
    line = refused(capsys)
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["student=base", "--cfg", "job"]])
def test_a_verb_lists_its_settings(
    run_cli: Cli, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run_cli("train", *arguments, "trainer.max_steps=7") == 0
    assert "max_steps: 7" in capsys.readouterr().out


def test_the_experiment_follows_the_teacher() -> None:
    assert follow_teacher("train", ["teacher=sd14"]) == ["teacher=sd14", "experiment=bk_sdm"]
    assert follow_teacher("train", ["teacher=shapes"]) == ["teacher=shapes"]
    assert follow_teacher("plan", ["teacher=sd14"]) == ["teacher=sd14"]
    assert follow_teacher("train", ["teacher=sd14", "experiment=shapes"])[-1] == "experiment=shapes"
    assert follow_teacher("plan", ["teacher=a/b"]) == [
        "teacher=pretrained",
        "teacher.path='a/b'",
        "teacher.name='b'",
    ]
    with pytest.raises(InputError, match="sd99"):
        follow_teacher("plan", ["teacher=sd99"])


@pytest.mark.parametrize(
    ("teacher", "student", "parameters"),
    [("sd14", "tiny", (859_520_964, 323_384_964)), ("sd21", "small", (865_910_724, 485_787_524))],
)
def test_plan_as_json(
    run_cli: Cli,
    capsys: pytest.CaptureFixture[str],
    teacher: str,
    student: str,
    parameters: tuple[int, int],
) -> None:
    assert run_cli("plan", f"teacher={teacher}", f"student={student}", "format=json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["teacher"]["parameters"], result["student"]["parameters"]) == parameters
    assert set(result) == {"teacher", "student", "weights", "dropped", "feature_pairs"}
    assert set(result["student"]) == {"parameters", "macs", "macs_published", "config"}
    assert result["weights"]["conv_in.weight"] == "conv_in.weight"
    assert len(result["feature_pairs"]) == (6 if student == "tiny" else 8)
    assert "mid_block" in result["dropped"]


def test_plan_as_text_draws_any_pattern(run_cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("plan", "teacher=sd14", "student=base", "student.down=[[0],[0,1],[0],[0]]") == 0
    text = capsys.readouterr().out
    assert "down 0  [# RA] [. RA]" in text
    assert "down 1  [# RA] [# RA]" in text
    assert "618,662,404" in text


def test_prompts_may_have_commas_and_quotes() -> None:
    wanted = "prompt='a cat, a dog\\'s (red) hat: yes'"
    assert quoted_text("prompt=a cat, a dog's (red) hat: yes") == wanted
    assert quoted_text("prompt=[a,b]") == "prompt=[a,b]"
    assert quoted_text("prompt='x'") == "prompt='x'"
    assert quoted_text("model=a,b") == "model=a,b"
    assert quoted_text("title=null") == "title=null"
    assert quoted_text("title=Ours, first") == "title='Ours, first'"
    assert quoted_text("data.shards=a/{0..9}.tar") == "data.shards='a/{0..9}.tar'"


def test_brace_patterns_reach_the_data(
    run_cli: Cli, tiny_run: list[str], shards: Path, tmp_path: Path
) -> None:
    braces = f"data.shards={shards}/train-{{00000..00002}}.tar"
    assert run_cli(*tiny_run, braces, "name=braces", "trainer.max_steps=1") == 0
    assert (tmp_path / "runs" / "braces" / "student").is_dir()


def test_export_never_overwrites_what_is_no_export(
    run_cli: Cli, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*tiny_run, "name=run") == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("dear")
    capsys.readouterr()
    assert run_cli("export", "run=runs/run", "out=photos") == 2
    assert "photos exists, and was not written by bksdm" in capsys.readouterr().err
    assert (tmp_path / "photos" / "mine.jpg").read_text() == "dear"


def test_other_worlds_are_not_judged_by_the_shapes_protocol(
    run_cli: Cli, sd1_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("evaluate", f"model={sd1_folder}", "baseline=null", "protocol=shapes") == 2
    assert "makes 16x16 pictures" in refused(capsys)
