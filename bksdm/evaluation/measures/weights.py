"""Weights of the networks that measure: where they lie, what they are, how to get them."""

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bksdm.checksum import sha256_of
from bksdm.errors import InputError
from bksdm.models.hub import NotInRepositoryError, first_line, hub_file

T = TypeVar("T")

TRANSFORMERS: Final = ("model.safetensors", "pytorch_model.bin")

# Of what protocols name, so that a message can say what it is about to cost.
_SIZES: Final = {
    "openai/clip-vit-base-patch32": "0.6 GB",
    "openai/clip-vit-large-patch14-336": "1.7 GB",
    "laion/CLIP-ViT-g-14-laion2B-s34B-b88K": "5.5 GB",
    "facebook/dinov2-large": "1.2 GB",
    "THUDM/ImageReward": "1.8 GB",
    "xswu/HPSv2": "2.0 GB",
}
_UNREADABLE: Final = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Place:
    """A folder, or a repository of the Hub.

    Attributes:
        path: the folder, or the repository's id.
        revision: branch, tag or commit on the Hub.
        small: whether only configs and a tokenizer are wanted of it.
    """

    path: str
    revision: str | None = None
    small: bool = False

    @property
    def words(self) -> str:
        """For messages and results."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"

    def remedy(self, *names: str) -> str:
        """How to get these files of it."""
        if self._folder is not None:
            return "expected a folder that has it"
        if self.small:
            return f"get it with `hf download {self.path} --include '*.json' '*.txt'`"
        what = f"{self.path} {names[0]}" if len(names) == 1 else self.path
        size = "" if what.endswith(".json") else _SIZES.get(self.path, "")
        return f"get it with `hf download {what}`{f' ({size})' if size else ''}"

    @property
    def location(self) -> str:
        """What transformers' `from_pretrained` takes."""
        return str(self._folder or self.path)

    @property
    def _folder(self) -> Path | None:
        path = Path(self.path).expanduser()
        return path if path.is_dir() or self.path.startswith((".", "/", "~")) else None

    def find(self, *names: str) -> Path:
        """The first of these files that is there, downloaded if need be.

        Raises:
            InputError: none is there.
        """
        first: InputError | None = None
        for name in names:
            try:
                return self._file(name)
            except NotInRepositoryError:
                continue
            except InputError as error:  # without a network a later one may still be in the cache
                first = first or error
        if first is not None:
            raise InputError(f"{first}; {self.remedy(*names)}") from first
        raise InputError(
            f"weights {self.words}: no {' or '.join(names)} there; {self.remedy(*names)}"
        )

    def _file(self, name: str) -> Path:
        of = f"weights {self.words}"
        if self._folder is None:
            return hub_file(self.path, name, revision=self.revision, of=of)
        if not (self._folder / name).is_file():
            raise NotInRepositoryError(f"{of}: no {name}")
        return self._folder / name

    def settings(self, name: str) -> dict[str, Any]:
        """A JSON file.

        Raises:
            InputError: not there, or no JSON.
        """
        path = self.find(name)
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {first_line(error)}; expected JSON") from error
        return found


@dataclass(frozen=True)
class Loaded:
    """A network with its weights' sha256, in evaluation mode, without gradients."""

    network: Any
    sha256: str


def pretrained(network: Any, place: Place) -> Loaded:
    """A transformers class with the weights of a place in transformers' layout, float32.

    Raises:
        InputError: not there, or not the weights of this class.
    """
    file = place.find(*TRANSFORMERS)
    place.find("config.json")
    made, told = read(
        lambda: network.from_pretrained(
            file.parent, dtype=torch.float32, output_loading_info=True, local_files_only=True
        ),
        file,
    )
    # transformers itself only warns, and measures with random numbers
    refuse_missing(sorted(told["missing_keys"]), file)
    return Loaded(made.eval().requires_grad_(requires_grad=False), sha256_of(file))


def load_state(network: torch.nn.Module, state: Mapping[str, Tensor], file: Path) -> Loaded:
    """Fill a network with mapped weights; of the file there may be more.

    Raises:
        InputError: weights are missing, or of another shape.
    """
    told = read(lambda: network.load_state_dict(dict(state), strict=False), file)
    refuse_missing(told.missing_keys, file)
    return Loaded(network.eval().requires_grad_(requires_grad=False), sha256_of(file))


def refuse_missing(missing: list[str], file: Path) -> None:
    """Refuse weights that leave a part of the network random."""
    if missing:
        raise InputError(
            f"{file}: no {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}: it is of"
            " another network than the protocol measures with; give another place"
        )


def read_state(file: Path) -> dict[str, Any]:
    """A file of weights, safetensors or torch's, float32 on the CPU.

    Raises:
        InputError: it cannot be read.
    """
    if file.suffix == ".safetensors":
        return dict(read(lambda: load_file(file), file))
    return dict(read(lambda: torch.load(file, map_location="cpu", weights_only=True), file))


def read(action: Callable[[], T], file: Path) -> T:
    """What the action returns; what goes wrong in it, as one line.

    Raises:
        InputError: the file cannot be read, or is of another network.
    """
    try:
        return action()
    except _UNREADABLE as error:
        raise InputError(
            f"{file}: cannot be read as weights ({type(error).__name__}: {first_line(error)});"
            " download it again, or choose another"
        ) from error
