"""A made-up copy of COCO, and a network that sees nothing but colours."""

import json
import os
import signal
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bksdm.evaluation.coco.official import Part
from bksdm.evaluation.measures.features import FEATURES, Extractor, Identity

# Newlines, quotes, commas, what spreadsheets take for a formula, another script, an emoji.
HOSTILE = ('A "dog",\nand a cat.\n', "=1+1, 'x'", "  ein  großer Hund  ", "狗在跑", "a 🐕\tdog")


@dataclass(frozen=True)
class TinyCoco:
    """Files of a copy, and the part that it is all of."""

    root: Path
    part: Part

    @property
    def annotations(self) -> Path:
        return self.root / "captions_val2014.json"

    @property
    def images(self) -> Path:
        return self.root / "val2014"

    @property
    def arguments(self) -> list[str]:
        return [
            "prepare",
            "source=coco",
            f"source.annotations={self.annotations}",
            f"source.images={self.images}",
        ]

    def zipped(self) -> Path:
        """The pictures as a zip like the official one."""
        path = self.root / "val2014.zip"
        with zipfile.ZipFile(path, "w") as file:
            for picture in sorted(self.images.iterdir()):
                file.write(picture, f"val2014/{picture.name}")
        return path


def file_name(image: int) -> str:
    return f"COCO_val2014_{image:012d}.jpg"


def annotations(images: int) -> dict[str, list[dict[str, object]]]:
    """Picture i has id 7 i, listed from the last to the first; its captions are listed with the
    higher id first.
    """
    rows = [
        {"image_id": 7 * i, "id": 1000 - 10 * i + extra, "caption": f"{words} {i} {extra}"}
        for i in range(1, images + 1)
        for extra, words in ((5, HOSTILE[i % len(HOSTILE)]), (0, HOSTILE[(i + 1) % len(HOSTILE)]))
    ]
    listed = [{"id": 7 * i, "file_name": file_name(7 * i)} for i in range(images, 0, -1)]
    return {"images": listed, "annotations": rows}


def make_coco(root: Path, *, images: int = 10) -> TinyCoco:
    """Pictures of one colour each, and of different sizes."""
    coco = TinyCoco(
        root, Part("val2014", images, 2 * images, "annotations/captions_val2014.json", {})
    )
    coco.images.mkdir(parents=True)
    coco.annotations.write_text(json.dumps(annotations(images)))
    for i in range(1, images + 1):
        color = (20 * i, 255 - 20 * i, (60 * i) % 256)
        Image.new("RGB", (20 + i, 30), color).save(coco.images / file_name(7 * i))
    return coco


@dataclass(frozen=True)
class Deadly:
    """Photographs that kill who reads them."""

    def names(self) -> frozenset[str]:
        return frozenset({"a.jpg"})

    def read(self, name: str) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return name.encode()


@dataclass(frozen=True)
class MeanColor:
    """A network whose features are a picture's mean colour."""

    weights: str = "none"
    input: str = "as is"

    def load(self, device: torch.device) -> Extractor:
        identity = Identity(
            name="mean color", weights=self.weights, source="here", input=self.input
        )

        def forward(pixels: Tensor) -> Mapping[str, Tensor]:
            return {FEATURES: pixels.to(device).float().mean(dim=(2, 3))}

        return Extractor(identity=identity, dims={FEATURES: 3}, forward=forward)
