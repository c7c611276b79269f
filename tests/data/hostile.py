"""Tars with whatever in them."""

import io
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

Member = tuple[str, bytes]


def write_tar(path: Path, members: Sequence[Member]) -> Path:
    """A tar of these members, names as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def png(color: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (16, 16)) -> bytes:
    """A plain picture."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format="png")
    return buffer.getvalue()


def good(count: int, *, first: int = 0) -> list[Member]:
    """Members of good samples, each of another colour."""
    return [
        member
        for i in range(first, first + count)
        for member in [(f"{i:04d}.png", png((i, 0, 0))), (f"{i:04d}.txt", f"number {i}".encode())]
    ]


def bomb(side: int = 30_000) -> bytes:
    """A PNG that says it is side x side, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
