"""Shards of drawn pictures in the teacher's size, and the command line that works on them."""

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from bench.sections.section import Section
from bksdm.cli.main import main
from bksdm.data.shapes import samples
from bksdm.data.shards import write_shard

DRAWN = 64  # different pictures; the other shards are links, as drawing large ones takes long
INTERRUPTED = 130  # exit code


def bksdm(*arguments: str) -> str:
    """Run the command in this process; what it printed.

    Raises:
        KeyboardInterrupt: it was stopped, as by `patience`.
        RuntimeError: it ended with another code than 0.
    """
    printed, told, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["bksdm", *arguments]
    try:
        with redirect_stdout(printed), redirect_stderr(told):
            code = main()
    finally:
        sys.argv = before
        print(f"$ bksdm {' '.join(arguments)}\n{printed.getvalue()}{told.getvalue()}", flush=True)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        last = (told.getvalue().strip().splitlines() or [""])[-1]
        raise RuntimeError(f"bksdm {arguments[0]}: exit code {code}: {last}")
    return printed.getvalue()


def teacher_arguments(section: Section) -> list[str]:
    """Which teacher, on the command line."""
    source = section.setting.source
    return [f"teacher={source.name}", f"teacher.path={source.path}"]


def drawn_pictures(section: Section) -> Path:
    """The folder of the pictures' shards, which are drawn if they are missing."""
    folder, count = section.folder / "pictures", min(DRAWN, section.setting.pictures)
    first, size = folder / "00000.tar", (section.setting.teacher.picture_size,) * 2
    if not first.exists():
        rows = [
            (f"{row:06d}", image.resize(size), scene.caption)
            for row, (scene, image) in enumerate(samples(count, seed=0))
        ]
        write_shard(first, rows)
    for shard in range(1, section.setting.pictures // count):
        path = folder / f"{shard:05d}.tar"
        if not path.exists():
            os.link(first, path)
    return folder


def latents(section: Section) -> Path:
    """The folder of the latents' shards, which `bksdm encode` makes if they are missing."""
    folder = section.folder / "latents"
    if len(list(folder.glob("*.tar"))) < len(list(drawn_pictures(section).glob("*.tar"))):
        encode(section, folder, precision="bfloat16")
    return folder


def encode(section: Section, folder: Path, *, precision: str) -> str:
    """Encode the pictures; what was printed."""
    pictures = drawn_pictures(section)
    given = [f"shards={pictures}/*.tar", f"out={folder}", f"precision={precision}"]
    return bksdm("encode", *teacher_arguments(section), *given)
