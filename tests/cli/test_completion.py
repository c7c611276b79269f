"""Completion, asked as the scripts ask and typed into real shells."""

import os
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bksdm.cli.completion import candidates
from bksdm.cli.main import VERBS

BASH = shutil.which("bash") or "/bin/bash"
BIN = Path(sys.executable).parent
ENVIRONMENT = {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("student=ti", ["student=tiny"]),
        ("student=base,s", ["student=base,small"]),
        ("trainer.max_", ["trainer.max_steps="]),
        ("train", ["trainer.", "trainer="]),
        ("checkpoint.background=", ["checkpoint.background=false", "checkpoint.background=true"]),
        ("name=", []),  # has a choice of Hydra's in it, which is not made yet
        ("--c", ["--cfg=job"]),
        ("hydra", []),
    ],
)
def test_a_word_is_completed_from_the_configuration(word: str, expected: list[str]) -> None:
    assert candidates(["train", word]) == expected


def test_a_verb_offers_only_what_it_takes() -> None:
    assert candidates(["plan", "optim"]) == []
    assert candidates(["train", "optim"]) == ["optimizer.", "optimizer="]


def test_what_is_typed_before_counts() -> None:
    words = ["teacher=sd14", "-m", "optimizer.lr="]
    assert candidates(["train", *words]) == ["optimizer.lr=5e-05"]  # the experiment follows
    assert candidates(["train", "teacher=no/such", "student=ti"]) == ["student=tiny"]
    assert candidates(["train", "student=none-such", "trainer.max_"]) == []


def test_no_verb_means_no_candidates(
    run_cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("--complete", "no-such-verb", "student=ti") == 0
    assert run_cli("--complete") == 0
    assert capsys.readouterr().out == ""


def test_an_unknown_shell_is_told_which_there_are(
    run_cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("--completion", "tcsh") == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_completing_settings_loads_no_torch() -> None:
    code = (
        "import sys; from bksdm.cli.completion import candidates;"
        "assert candidates(['train', 'student=ti']) == ['student=tiny'];"
        "sys.exit(bool({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def bash(code: str, path: str) -> str:
    done = subprocess.run(
        [BASH, "--norc", "-c", code],
        env=ENVIRONMENT | {"PATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_verbs_are_completed_without_starting_python() -> None:
    script = bash("bksdm --completion bash", ENVIRONMENT["PATH"])
    ask = "COMP_LINE='bksdm e' COMP_POINT=7; COMP_WORDS=(bksdm e) COMP_CWORD=1; _bksdm"
    found = bash(f"{script}\n{ask}\necho ${{COMPREPLY[@]}}", "/nowhere")
    assert found.split() == [verb for verb in VERBS if verb.startswith("e")]


def test_bash_gets_what_follows_the_last_break() -> None:
    line = "bksdm train student=ti"
    ask = f"COMP_LINE='{line}' COMP_POINT={len(line)}; _bksdm; echo ${{COMPREPLY[@]}}"
    start = 'eval "$(bksdm --completion bash)"\n'
    assert bash(start + ask, ENVIRONMENT["PATH"]) == "tiny\n"
    whole = start + "COMP_WORDBREAKS=' '\n" + ask  # as some set it
    assert bash(whole, ENVIRONMENT["PATH"]) == "student=tiny\n"


TYPED = [
    ("bksdm gen\t", "bksdm generate"),
    ("bksdm train student=ti\t", "bksdm train student=tiny"),
    ("bksdm train trainer.max_\t7", "bksdm train trainer.max_steps=7"),
    ("bksdm train student=tiny opti\t.l\t0.1", "bksdm train student=tiny optimizer.lr=0.1"),
    ("bksdm generate model=pict\t", "bksdm generate model=pictures"),
]


@pytest.mark.parametrize(
    ("shell", "begin"),
    [
        (["bash", "--norc", "--noprofile", "-i"], ""),
        (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D\n"),
    ],
    ids=["bash", "zsh"],
)
def test_typed_into_a_terminal(shell: list[str], begin: str, tmp_path: Path) -> None:
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]} here")
    (tmp_path / "pictures").mkdir()
    keys = f'{begin}eval "$(bksdm --completion {shell[0]})"\n'
    for typed, _ in TYPED:
        keys += f"{typed}\x05'\x01echo '\x05 >> said\n"  # quoted as a whole, and kept
    type_into(shell, f"{keys}exit\n", tmp_path)
    said = (tmp_path / "said").read_text().splitlines()
    # zsh takes a folder's / back when something else is typed behind it.
    assert [line.rstrip(" /") for line in said] == [wanted for _, wanted in TYPED]


def type_into(shell: list[str], keys: str, folder: Path) -> None:
    """Run an interactive shell on a terminal of its own until it has had all keys."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        shell,
        cwd=folder,
        env=ENVIRONMENT | {"HOME": str(folder), "LC_ALL": "C.UTF-8"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = bytearray()
    reader = threading.Thread(target=_read, args=(ours, screen), daemon=True)
    reader.start()
    os.write(ours, keys.encode())
    try:
        process.wait(timeout=180)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(screen.decode(errors="replace"))
    finally:
        reader.join(timeout=5)
        os.close(ours)


def _read(terminal: int, screen: bytearray) -> None:
    try:
        while data := os.read(terminal, 4096):
            screen += data
    except OSError:  # the shell has gone
        return


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish here")
def test_fish_completes_verbs_and_settings(tmp_path: Path) -> None:
    code = (
        "bksdm --completion fish | source;"
        "complete -C 'bksdm gen'; complete -C 'bksdm train student=ti'"
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT | {"HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["generate", "student=tiny"]
