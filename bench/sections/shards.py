"""Shards of drawn pictures in the teacher's size, and the command line that works on them."""

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

from bench.sections.section import Section
from bksdm.cli.main import main
from bksdm.data.shapes import samples
from bksdm.data.shards import write_shard

SHARDS = 4


def bksdm(*arguments: str) -> str:
    """Run the command in this process; what it printed.

    Raises:
        RuntimeError: it ended with another code than 0.
    """
    printed, before = io.StringIO(), sys.argv
    sys.argv = ["bksdm", *arguments]
    try:
        with redirect_stdout(printed):
            code = main()
    finally:
        sys.argv = before
        print(f"$ bksdm {' '.join(arguments)}\n{printed.getvalue()}", flush=True)
    if code:
        raise RuntimeError(f"bksdm {arguments[0]}: exit code {code}")
    return printed.getvalue()


def teacher_arguments(section: Section) -> list[str]:
    """Which teacher, on the command line."""
    world = section.setting.world
    return [f"teacher={world.teacher}", f"teacher.weights={world.weights}"]


def drawn_pictures(section: Section) -> Path:
    """The folder of the pictures' shards, which are drawn if they are missing."""
    folder, setting = section.folder / "pictures", section.setting
    size = (setting.teacher.picture_size,) * 2
    each = setting.pictures // SHARDS
    for shard in range(SHARDS):
        path = folder / f"{shard:05d}.tar"
        if not path.exists():
            rows = [
                (f"{shard:02d}{row:06d}", image.resize(size), scene.caption)
                for row, (scene, image) in enumerate(samples(each, seed=shard))
            ]
            write_shard(path, rows)
    return folder


def latents(section: Section) -> Path:
    """The folder of the latents' shards, which `bksdm encode` makes if they are missing."""
    folder = section.folder / "latents"
    encode(section, folder, precision="bfloat16")
    return folder


def encode(section: Section, folder: Path, *, precision: str) -> str:
    """Encode the pictures; what was printed."""
    pictures = drawn_pictures(section)
    given = [f"shards={pictures}/*.tar", f"out={folder}", f"precision={precision}"]
    return bksdm("encode", *teacher_arguments(section), *given)
