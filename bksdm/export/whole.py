"""Folders that are there whole or not at all, and that replace only what we wrote ourselves."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bksdm.atomic import open_to_others
from bksdm.errors import InputError

STUDENT: Final = "student"  # of a run: the folder's name


def refuse_others(folder: Path, *, mark: str, student: bool = False) -> None:
    """Only what we wrote may be replaced.

    Args:
        folder: to be replaced, if it is there.
        mark: name of our file in it.
        student: whether a run's student may be replaced, too, whatever is in it.

    Raises:
        InputError: it holds something else.
    """
    of_run = folder.name == STUDENT and (folder.parent / "config.yaml").is_file()
    ours = student if of_run else (folder / mark).is_file()
    if folder.exists() and not ours:
        what = "is a run's student" if of_run else f"was not written by bksdm (no {mark} in it)"
        raise InputError(f"{folder} exists, and {what}; choose another folder")


def replace_folder(folder: Path, new: Path) -> None:
    """Put a folder in another's place; between two renames there is none."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    try:
        new.replace(folder)
    except OSError:
        if old.exists():
            old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def scratch_folder(folder: Path, suffix: str) -> Iterator[Path]:
    """An empty folder beside `folder`, gone in the end."""
    path = folder.with_name(f".{folder.name}.{suffix}")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def open_all_to_others(folder: Path) -> None:
    """Give all files of a folder the rights that new files have here."""
    for path in folder.rglob("*"):
        if path.is_file():
            open_to_others(path)
