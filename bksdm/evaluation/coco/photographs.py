"""Photographs of a reference set: files in a folder or in an official zip, read and kept as a
protocol keeps pictures, in loader processes.

Knows nothing of captions or of networks.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bksdm.data.decode import BadSampleError, decoding
from bksdm.errors import InputError, told_plainly
from bksdm.evaluation.keeping import Keeping, read_picture


class Photographs(Protocol):
    """Picture files by name; travels to loader processes."""

    def names(self) -> frozenset[str]:
        """All that are there."""

    def read(self, name: str) -> bytes:
        """One file.

        Raises:
            InputError: it cannot be read.
        """


@dataclass(frozen=True)
class InFolder:
    """Files of a folder, not below it."""

    folder: Path

    def names(self) -> frozenset[str]:
        """All files."""
        return frozenset(path.name for path in self.folder.iterdir() if path.is_file())

    def read(self, name: str) -> bytes:
        """One file.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise InputError(f"{self.folder / name} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class InZip:
    """Files of a zip, which stays packed, by their names without folders."""

    path: Path

    def names(self) -> frozenset[str]:
        """All files."""
        return frozenset(_members(self.path))

    def read(self, name: str) -> bytes:
        """One file.

        Raises:
            InputError: it cannot be read.
        """
        return read_member(self.path, _members(self.path)[name])


def photographs(path: Path, *, setting: str) -> Photographs:
    """The files at a path.

    Raises:
        InputError: neither a folder nor a zip.
    """
    if path.is_dir():
        return InFolder(path)
    if path.is_file() and path.suffix.lower() == ".zip":
        return InZip(path)
    raise InputError(f"{setting}={path}: expected the folder that has the pictures, or their zip")


def read_member(path: Path, member: str) -> bytes:
    """A file of a zip; its CRC is checked.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return _opened(path).read(member)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {member} cannot be read: {error}; fetch it again") from error


@lru_cache(maxsize=2)  # of each process: a zip's table of contents is long
def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no zip that can be read: {error}; fetch it again") from error


@lru_cache(maxsize=2)
def _members(path: Path) -> dict[str, str]:
    infos = _opened(path).infolist()
    return {PurePosixPath(info.filename).name: info.filename for info in infos if not info.is_dir()}


@dataclass(frozen=True)
class Kept:
    """N photographs as the protocol keeps them.

    Attributes:
        pixels: uint8 (N, 3, H, W).
        digests: sha256 of each original file, uint8 (N, 32).
    """

    pixels: Tensor
    digests: Tensor


class _Kept(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, source: Photographs, names: Sequence[str], keeping: Keeping) -> None:
        self._source, self._names, self._keeping = source, names, keeping

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with told_plainly():
            data = self._source.read(self._names[index])
            pixels = kept(data, self._keeping, name=self._names[index])
        digest = torch.frombuffer(bytearray(hashlib.sha256(data).digest()), dtype=torch.uint8)
        return pixels, digest


def kept(data: bytes, keeping: Keeping, *, name: str) -> Tensor:
    """A photograph's pixels as the protocol keeps them, uint8 (3, H, W). As the reference
    implementations do, without turning it as EXIF says.

    Raises:
        InputError: it is no picture that can be read.
    """
    try:
        with decoding(), Image.open(io.BytesIO(data)) as image:
            file = keeping.real(image)
    except (BadSampleError, UnidentifiedImageError) as error:
        raise InputError(
            f"{name} is no picture that can be read ({error}); a reference set is complete or none:"
            " fetch it again"
        ) from error
    return read_picture(file)


def kept_batches(
    source: Photographs,
    names: Sequence[str],
    keeping: Keeping,
    *,
    batch_size: int,
    workers: int,
) -> Iterator[Kept]:
    """The named photographs in their order.

    Args:
        source: where they are.
        names: which.
        keeping: what is done to each; all come out at one size.
        batch_size: at once.
        workers: loader processes; 0 reads in this one.

    Raises:
        InputError: one cannot be read (named), or a loader process was killed.
    """
    loader = DataLoader(
        _Kept(source, names, keeping),
        batch_size=batch_size,
        num_workers=workers,
        # Not forked: this process has threads and may have a GPU.
        multiprocessing_context="forkserver" if workers else None,
    )
    try:
        for pixels, digests in loader:
            yield Kept(pixels, digests)
    except (BrokenPipeError, ConnectionResetError, EOFError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a loader process was killed, perhaps for want of memory, or with the whole command;"
            f" run it again, with fewer than workers={workers}"
        ) from error
