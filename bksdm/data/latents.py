"""What latent shards hold, and whether they are what a run would have made itself."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from bksdm.errors import InputError
from bksdm.models.teacher import Teacher, weights_hash

# Not compared: the same weights under another name make the same latents, and a lower precision of
# the encoder is the choice of whoever encoded.
_NOTES = frozenset({"vae", "revision", "computed_in"})


@dataclass(frozen=True, kw_only=True)
class LatentFormat:
    """The settings on which cached latents depend.

    Attributes:
        vae: Hub id or folder of the VAE's teacher.
        revision: its branch, tag or commit.
        vae_hash: of the VAE's weights.
        resolution: pixels of a side.
        crop: how pictures of other shapes were cropped.
        flips: whether each picture's mirror image was encoded, too.
        dtype: in which the moments are stored.
        text_hash: of the text encoder's weights if its states are stored, else empty.
        computed_in: the VAE's precision.
    """

    vae: str
    revision: str | None
    vae_hash: str
    resolution: int
    crop: str = "center"
    flips: bool
    dtype: str = "float16"
    text_hash: str = ""
    computed_in: str = "float32"


def latent_format(
    teacher: Teacher, *, resolution: int, flips: bool, text: bool, computed_in: str = "float32"
) -> LatentFormat:
    """What encoding with this teacher gives; the teacher must be in the precision that it was
    loaded in.
    """
    return LatentFormat(
        vae=teacher.source.path,
        revision=teacher.source.revision,
        vae_hash=weights_hash(teacher.vae),
        resolution=resolution,
        flips=flips,
        text_hash=weights_hash(teacher.text_encoder) if text else "",
        computed_in=computed_in,
    )


def check_format(found: str, teacher: Teacher, *, resolution: int, flip: bool) -> LatentFormat:
    """The format of latent shards, if a run of this teacher can use them.

    Raises:
        InputError: names the field that differs.
    """
    try:
        fields: dict[str, Any] = json.loads(found)
        cached = LatentFormat(**fields)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"latent shards of an unknown format ({error}); encode them again with this version"
        ) from error
    text = bool(cached.text_hash)
    wanted = asdict(latent_format(teacher, resolution=resolution, flips=cached.flips, text=text))
    for name, value in asdict(cached).items():
        if name not in _NOTES and value != wanted[name]:
            raise InputError(
                f"latent shards do not fit: {name} is {value} there (VAE {cached.vae}"
                f"{f'@{cached.revision}' * bool(cached.revision)}), {wanted[name]} in this run;"
                " change the run's setting, or encode the shards again into another folder"
            )
    if flip and not cached.flips:
        raise InputError(
            "latent shards do not fit: flips is False there, data.flip=true in this run;"
            " set data.flip=false, or encode again with flips=true"
        )
    return cached
