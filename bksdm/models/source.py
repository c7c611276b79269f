"""Where a teacher comes from, and its U-Net's config, without loading weights.

Knows diffusers' folder layout and the Hub. Knows nothing of plans, losses or training.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import UNet2DConditionModel

from bksdm.errors import InputError
from bksdm.models.hub import NotInRepositoryError, hub_file

EMBEDDED: Final = "embedded:"
PACKED: Final = "model.packed.safetensors"  # in place of a part's weights; see export.packed

NARROW: Final = "model.narrow.safetensors"  # in place of the U-Net's weights; see export.narrow


def embedded_folder(name: str) -> Path:
    """The folder of a teacher that the package carries."""
    return Path(str(files("bksdm.assets") / name))


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """Where a teacher comes from.

    Attributes:
        name: short name, for run names and tables.
        path: a diffusers folder, a Hub id, or "embedded:NAME".
        revision: branch, tag or commit on the Hub.
        weights: "pretrained", or "random" for a dry run at real size (then `architecture` is
            needed, and the tokenizer is the embedded world's).
        architecture: configs of `unet`, `vae`, `text_encoder` and `scheduler` of a named teacher,
            so that plans and dry runs need no download.
        license: its licence as the Hub identifies it, which a student inherits; None: its model
            card is asked.
    """

    name: str
    path: str
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: Mapping[str, Mapping[str, Any]] | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if self.weights not in ("pretrained", "random"):
            raise InputError(f"teacher.weights={self.weights!r}: expected 'pretrained' or 'random'")
        if self.weights == "random" and self.architecture is None:
            raise InputError(
                f"teacher.weights=random needs a named teacher (sd14, sd15, ...), got {self.path!r}"
            )

    @property
    def location(self) -> str:
        """What diffusers' and transformers' `from_pretrained` take."""
        if self.path.startswith(EMBEDDED):
            return str(embedded_folder(self.path.removeprefix(EMBEDDED)))
        return self.path

    @property
    def identity(self) -> dict[str, str | None]:
        """What a checkpoint remembers of its teacher, to be compared when it resumes."""
        return {"path": self.path, "revision": self.revision, "weights": self.weights}


def unet_config(source: TeacherSource) -> dict[str, Any]:
    """Config of the teacher's U-Net; for a named teacher without touching disk or network.

    Raises:
        InputError: not there, or not a Stable Diffusion U-Net.
    """
    if source.architecture is not None:
        return _filled(source.architecture["unet"])
    return checked_unet_config(source)


def checked_unet_config(source: TeacherSource) -> dict[str, Any]:
    """The same, always read from where the weights are: says clearly if they cannot be had."""
    return _filled(_read_config(source, "unet"))


def text_tokens(source: TeacherSource) -> int:
    """Number of text states that the teacher's U-Net attends to."""
    if source.architecture is not None:
        return int(source.architecture["text_encoder"]["max_position_embeddings"])
    return int(_read_config(source, "text_encoder").get("max_position_embeddings", 77))


def picture_size(source: TeacherSource) -> int:
    """Pixels of a side that the teacher was made for."""
    config = unet_config(source)
    vae = source.architecture["vae"] if source.architecture else _read_config(source, "vae")
    return int(config["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1))


def architecture(source: TeacherSource) -> dict[str, dict[str, Any]]:
    """Configs of `unet`, `vae`, `text_encoder` and `scheduler`; of a named teacher without touching
    disk or network.

    Raises:
        InputError: not there, or not of Stable Diffusion.
    """
    if source.architecture is not None:
        parts = {name: dict(config) for name, config in source.architecture.items()}
    else:
        parts = {part: _read_config(source, part) for part in ("unet", "vae", "text_encoder")}
        parts["scheduler"] = _read_config(source, "scheduler", "scheduler_config.json")
        parts["text_encoder"].setdefault("max_position_embeddings", 77)
    return parts | {"unet": _filled(parts["unet"])}


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without versions and paths, and tuples as JSON has them."""
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(known))
    return plain


def _read_config(source: TeacherSource, part: str, name: str = "config.json") -> dict[str, Any]:
    folder = Path(source.location)
    local = source.path.startswith((EMBEDDED, ".", "/", "~")) or folder.is_dir()
    path = folder / part / name if local else _downloaded_config(source, f"{part}/{name}")
    if path.is_file():
        config: dict[str, Any] = json.loads(path.read_text())
        return config
    if (folder / "transformer" / "config.json").is_file():
        raise InputError(
            f"teacher {source.path} is a transformer, not a U-Net; "
            "expected a Stable Diffusion 1 or 2"
        )
    raise InputError(f"teacher {source.path}: no {path}; expected a diffusers folder or a Hub id")


def _downloaded_config(source: TeacherSource, file: str) -> Path:
    of = f"teacher {source.path}"
    try:
        return hub_file(source.path, file, revision=source.revision, of=of)
    except NotInRepositoryError as error:
        raise InputError(
            f"{of}: no {file}; expected Stable Diffusion 1 or 2 in diffusers format"
        ) from error


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with diffusers' defaults filled in; refuses what no block plan can cut."""
    kind = config.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel":
        raise InputError(f"the teacher's denoiser is a {kind}; expected a UNet2DConditionModel")
    if config.get("addition_embed_type"):
        raise InputError(
            "the teacher is an SDXL-like U-Net with added conditions; expected Stable Diffusion 1"
            " or 2"
        )
    with torch.device("meta"):
        filled = dict(UNet2DConditionModel.from_config(dict(config)).config)
    return {name: value for name, value in filled.items() if not name.startswith("_")}
