"""A folder of finished pictures: a killed evaluation goes on where it was, and no picture is made
twice.

A gallery's name says what its pictures depend on, so pictures of other weights or settings are
never mixed.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.evaluation.generate import Generated, Sampling, generate
from bksdm.evaluation.keeping import Keeping, read_picture
from bksdm.evaluation.measure import Pictures
from bksdm.evaluation.prompts import Prompt

IMAGES: Final = "images"
DIGITS: Final = 8
_WRITERS: Final = 4  # threads; PNG's deflate runs outside Python's lock


class NotFiniteError(InputError):
    """A model's picture is made of what are no numbers."""


@dataclass(frozen=True)
class Gallery:
    """Pictures of one model, by prompt.

    Attributes:
        folder: of the model's evaluation; pictures lie in `images/` in it.
        keeping: their format.
        latents: whether the sampler's final latents are kept, too.
    """

    folder: Path
    keeping: Keeping
    latents: bool

    def file(self, prompt: Prompt) -> Path:
        """The picture of a prompt."""
        return self.folder / IMAGES / f"{prompt.id}{self.keeping.suffix}"

    def has(self, prompt: Prompt) -> bool:
        """Whether it is finished."""
        return self.file(prompt).exists()

    def add(self, item: Generated) -> None:
        """Keep a picture. It is there only when everything of it is.

        Raises:
            NotFiniteError: it is made of what are no numbers.
        """
        if not item.finite:
            raise NotFiniteError(
                f"the picture of prompt {item.prompt.id} is not a number in some place: the model"
                " overflows in half precision; use protocol.sampling.dtype=bfloat16, or float32"
            )
        path = self.file(item.prompt)
        if self.latents:
            with replacing(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
                np.save(file, item.latents.numpy())
        with replacing(path) as temporary:
            temporary.write_bytes(self.keeping.generated(item.pixels))

    def read(self, prompts: Sequence[Prompt]) -> Pictures:
        """Finished pictures.

        Raises:
            InputError: one is missing, or cannot be read.
        """
        pixels = torch.stack([self._picture(prompt) for prompt in prompts])
        latents = (
            torch.stack([self._latents(prompt) for prompt in prompts]) if self.latents else None
        )
        return Pictures(tuple(prompts), pixels, latents)

    def _picture(self, prompt: Prompt) -> Tensor:
        path = self.file(prompt)
        try:
            return read_picture(path.read_bytes())
        except (OSError, SyntaxError, ValueError) as error:  # PIL raises all of them
            raise InputError(f"{path}: {error}; remove it, and evaluate again") from error

    def _latents(self, prompt: Prompt) -> Tensor:
        path = self.file(prompt).with_suffix(".npy")
        try:
            return torch.from_numpy(np.load(path))
        except (OSError, EOFError, ValueError) as error:
            raise InputError(
                f"{path}: {error}; remove the picture beside it, and evaluate again"
            ) from error


def gallery_of(
    root: Path,
    *,
    name: str,
    weights: str,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    keeping: Keeping,
    latents: bool,
    settings: Mapping[str, Any],
) -> Gallery:
    """The gallery in `root` of a model's pictures of these prompts, made so.

    Args:
        root: of the protocol.
        name: of the model, as the user gave it.
        weights: its fingerprint.
        prompts: all of them.
        sampling: how pictures are made.
        keeping: and kept.
        latents: whether latents are kept.
        settings: of sampling and keeping as plain values, written beside for people.
    """
    own = {
        "weights": weights,
        "latents": latents,
        "prompts": len(prompts),
        "prompts_sha256": prompts_hash(prompts),
    }
    # The number of prompts at once changes an image in the last bits only.
    made = {
        "sampling": {**vars(sampling), "batch_size": None},
        "keeping": vars(keeping),
        **own,
    }
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:DIGITS]
    folder = root / f"{slug(name)}-{digest}"
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    with replacing(folder / "generation.json") as temporary:
        temporary.write_text(json.dumps({"model": name, **own, **settings}, indent=1) + "\n")
    with replacing(folder / "prompts.csv") as temporary:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "seed", "text"])
        writer.writerows([prompt.id, prompt.seed, prompt.text] for prompt in prompts)
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return Gallery(folder, keeping, latents)


def slug(name: str) -> str:
    """A model's name as part of a folder's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "model"


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """sha256 of ids, texts and seeds, in order."""
    rows = [[prompt.id, prompt.text, prompt.seed] for prompt in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def pictures(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    gallery: Gallery,
    *,
    baseline: Gallery | None = None,
) -> Iterator[Pictures]:
    """The model's pictures in the order of the prompts, a batch at a time; those that are not
    finished are made first. Files are written while the next batch is sampled: a 512-pixel PNG
    takes a tenth of the time in which a fast GPU makes its picture.

    Args:
        pipeline: `sampling.prepared`.
        prompts: of this process.
        sampling: how pictures are made.
        gallery: where they are kept.
        baseline: whose pictures of the same prompts come along; the gallery itself for the
            baseline's own.
    """
    chunks = [
        prompts[start : start + sampling.batch_size]
        for start in range(0, len(prompts), sampling.batch_size)
    ]
    with ThreadPoolExecutor(_WRITERS) as pool:
        before: tuple[Sequence[Prompt], list[Future[None]]] | None = None
        for chunk in [*chunks, []]:
            missing = [prompt for prompt in chunk if not gallery.has(prompt)]
            made = generate(pipeline, missing, sampling)
            written = [pool.submit(gallery.add, item) for item in made]
            if before is not None:
                yield _finished(*before, gallery, baseline)
            before = chunk, written


def _finished(
    prompts: Sequence[Prompt],
    written: Sequence[Future[None]],
    gallery: Gallery,
    baseline: Gallery | None,
) -> Pictures:
    for file in written:
        file.result()
    found = gallery.read(prompts)
    if baseline is None:
        return found
    own = baseline.folder == gallery.folder
    return replace(found, baseline=found if own else baseline.read(prompts))
