"""A router as two files: weights as safetensors, and what they mean as JSON. The first version of
the format; readers refuse others.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bksdm.atomic import replacing
from bksdm.errors import InputError
from bksdm.gates.relax import Relaxation
from bksdm.gates.router import Router
from bksdm.surgery.sites import DepthSite, Sites, WidthSite

MEANING: Final = "router.json"
WEIGHTS: Final = "router.safetensors"
_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True)
class SavedRouter:
    """A router, and what belongs to it.

    Attributes:
        router: on the CPU. Its `route` takes embeddings of the encoder.
        encoder: identity of the sentence encoder, and under "settings" what finds it again
            (`models.encoder.load_saved`).
        teacher: identity of the teacher that the experts are cut from.
        plans: of each code the folder of its plan, beside the router's own, such as "experts/0";
            None where no training sample goes, and so nothing at all.
    """

    router: Router
    encoder: Mapping[str, Any]
    teacher: Mapping[str, Any]
    plans: tuple[str | None, ...]


def write_router(folder: Path, saved: SavedRouter) -> None:
    """Write both files, each whole or not at all; the JSON last."""
    folder.mkdir(parents=True, exist_ok=True)
    router = saved.router
    tensors = {name: part.detach().cpu() for name, part in router.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    meaning = {
        "format": _FORMAT,
        "experts": router.experts,
        "embedding": len(router.mean),
        "encoder": dict(saved.encoder),
        "teacher": dict(saved.teacher),
        "plans": list(saved.plans),
        "relaxation": asdict(router.relaxation),
        "sites": asdict(router.sites),
    }
    with replacing(folder / MEANING) as temporary:
        temporary.write_text(json.dumps(meaning, indent=1) + "\n")


def read_router(folder: Path) -> SavedRouter:
    """What `write_router` wrote.

    Raises:
        InputError: it is not there, or something else.
    """
    wanted = "expected the folder `router` of a run of `bksdm route`"
    try:
        meaning = json.loads((folder / MEANING).read_text())
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no {Path(error.filename or MEANING).name}; {wanted}") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder}: unreadable ({type(error).__name__}); {wanted}") from error
    if not isinstance(meaning, dict) or meaning.get("format") != _FORMAT:
        raise InputError(f"{folder / MEANING}: expected format {_FORMAT}, of this version of bksdm")
    try:
        router = Router(
            _sites(meaning["sites"]),
            experts=meaning["experts"],
            width=meaning["embedding"],
            relaxation=Relaxation(**meaning["relaxation"]),
        )
        router.load_state_dict(tensors)
        return SavedRouter(
            router=router.requires_grad_(requires_grad=False).eval(),
            encoder=meaning["encoder"],
            teacher=meaning["teacher"],
            plans=tuple(meaning["plans"]),
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}: router.json and weights differ; {wanted}") from error


def _sites(values: Mapping[str, Any]) -> Sites:
    return Sites(
        width=tuple(WidthSite(**site) for site in values["width"]),
        depth=tuple(DepthSite(**site) for site in values["depth"]),
        keeping=tuple(values["keeping"]),
    )
