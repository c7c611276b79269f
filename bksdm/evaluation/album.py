"""A folder of pictures for people to look at, and the prompts.csv beside them that says how each
was made. It names only what is finished, so that the same command again makes only the rest.

Removes nothing: pictures of other settings are replaced one by one, and all else stays.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusers import StableDiffusionPipeline
from torch import Tensor

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.evaluation.fingerprint import fingerprint, part_hashes
from bksdm.evaluation.generate import Generated, Sampling
from bksdm.evaluation.keeping import Keeping, read_picture
from bksdm.evaluation.prompts import Prompt

RECORD: Final = "prompts.csv"
COLUMNS: Final = (
    *("image", "prompt", "seed", "model", "weights", "size", "steps", "guidance"),
    *("scheduler", "scheduler_settings", "dtype"),
)


@dataclass(frozen=True)
class Made:
    """By what pictures are made.

    Attributes:
        model: its name, as the user gave it.
        weights: its fingerprint.
        settings: of sampling, as prompts.csv has them, from `size` on.
    """

    model: str
    weights: str
    settings: tuple[str, ...]


def made_by(model: str, pipeline: StableDiffusionPipeline, sampling: Sampling) -> Made:
    """By this pipeline, before `sampling.prepared` casts it."""
    settings = (
        sampling.pixels(pipeline),
        sampling.steps,
        float(sampling.guidance),
        sampling.scheduler or type(pipeline.scheduler).__name__,
        json.dumps(dict(sampling.scheduler_settings or {}), sort_keys=True),
        sampling.dtype or str(pipeline.unet.dtype).removeprefix("torch."),
    )
    return Made(model, fingerprint(part_hashes(pipeline)), tuple(map(str, settings)))


class Album:
    """Pictures of one model in a folder, a PNG file each, named by the prompt's id."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, which need not be there.

        Raises:
            InputError: prompts.csv there is of something else.
        """
        self.folder = folder
        self._rows = _read(folder / RECORD)

    def missing(self, prompts: Sequence[Prompt], made: Made) -> list[Prompt]:
        """Those whose pictures are not there, or were made otherwise."""
        return [
            prompt
            for prompt in prompts
            if self._rows.get(self.file(prompt).name) != _row(prompt, made)
            or not self.file(prompt).exists()
        ]

    def add(self, items: Sequence[Generated], made: Made) -> None:
        """Keep pictures. While files are replaced, prompts.csv does not speak of them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = {self.file(item.prompt).name: _row(item.prompt, made) for item in items}
        if self._rows.keys() & rows.keys():
            self._rows = {name: row for name, row in self._rows.items() if name not in rows}
            self._write()
        for item in items:
            with replacing(self.file(item.prompt)) as temporary:
                temporary.write_bytes(Keeping().generated(item.pixels))
        self._rows |= rows
        self._write()

    def read(self, prompt: Prompt) -> Tensor:
        """A finished picture, uint8 (3, H, W)."""
        return read_picture(self.file(prompt).read_bytes())

    def file(self, prompt: Prompt) -> Path:
        """The picture of a prompt."""
        return self.folder / f"{prompt.id}.png"

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([name, *row] for name, row in self._rows.items())
        with replacing(self.folder / RECORD) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")


def _row(prompt: Prompt, made: Made) -> tuple[str, ...]:
    return (prompt.text, str(prompt.seed), made.model, made.weights, *made.settings)


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
    except ValueError:  # empty, or not UTF-8
        head, rows = [], []
    if tuple(head) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise InputError(
            f"{path} was not written by this version of `bksdm generate`, which would replace it;"
            " choose another folder: out="
        )
    return {name: tuple(values) for name, *values in rows}
