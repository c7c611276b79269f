"""Pictures a second of `bksdm encode`, from shards to shards, beside the VAE alone."""

import re
import time

import torch

from bench.sections.section import Section
from bench.sections.shards import encode

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
BATCH = 32  # the command's own
CALLS = 4


def measure(section: Section) -> None:
    """A row a precision."""
    section.note("encode: start of the loader processes included; 2 of them decode PNGs")
    for name in PRECISIONS:
        section.attempt(name, lambda name=name: _encoded(section, name), seconds=15)


def _encoded(section: Section, name: str) -> None:
    told = encode(section, section.folder / f"encoded-{name}", precision=name)
    found = re.search(r"([\d.,]+) images/s", told.splitlines()[-1])
    if found is None:
        raise RuntimeError(f"bksdm encode said no rate: {told}")
    bare = _bare(section, PRECISIONS[name])
    rate = float(found[1].replace(",", ""))
    section.row(
        "encode", precision=name, images_per_second=rate, VAE_alone=bare, ratio=f"{rate / bare:.2f}"
    )


def _bare(section: Section, dtype: torch.dtype) -> float:
    setting, teacher = section.setting, section.setting.teacher
    teacher.encoders_to(setting.device, dtype=dtype)
    side, count = teacher.picture_size, min(BATCH, setting.pictures)
    pixels = torch.rand(count, 3, side, side, device=setting.device) * 2 - 1
    teacher.encode_moments(pixels).cpu()
    begin = time.perf_counter()
    for _ in range(CALLS):
        moments = teacher.encode_moments(pixels)
    moments.cpu()
    return CALLS * count / (time.perf_counter() - begin)
