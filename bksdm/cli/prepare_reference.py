"""`bksdm prepare source=coco reference=PROTOCOL`: a protocol's prompts and reference files, made of
the user's copy of COCO.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
import torch
from omegaconf import DictConfig
from PIL import features

from bksdm import __version__
from bksdm.checksum import sha256_of
from bksdm.cli.config import built, differing_keys, folder, plain
from bksdm.cli.progress import Progress
from bksdm.cli.wanted_reference import Wanted, tell, wanted_set
from bksdm.data.listing import CocoSource
from bksdm.data.record import write_text
from bksdm.errors import InputError
from bksdm.evaluation.coco.official import PARTS
from bksdm.evaluation.coco.photographs import kept_batches
from bksdm.evaluation.coco.provenance import (
    PROVENANCE,
    read_provenance,
    sha256_of_set,
    write_provenance,
)
from bksdm.evaluation.coco.reference import (
    CocoReference,
    check_zip,
)
from bksdm.evaluation.coco.reference_pass import in_folder, reference_files, write_all
from bksdm.evaluation.measures.on_features import OnFeatures
from bksdm.export.pipeline import best_device

OF_REFERENCES: Final = ("reference", "reference_prompts", "allow_partial")
PROMPTS: Final = "prompts.csv"
_BATCH: Final = 64  # divides a part of the pass
# Of provenance.json: what does not say what the set is.
_FREE: Final = frozenset({"format", "finished", "zips", "references", "photographs", "made_with"})


def prepare_reference(config: DictConfig, *, workers: int) -> int:
    """Write what is not there yet: prompts, reference files, and what they were made of."""
    plain(config)  # refuses what is missing
    reference, source = built(config.reference, CocoReference), built(config.source, object)
    if not isinstance(source, CocoSource):
        raise InputError(
            f"reference={reference.protocol.name} is made of COCO; expected source=coco with"
            " source.annotations= and source.images="
        )
    out = folder(config, "out")
    wanted = wanted_set(config, reference, source)
    tell(wanted)
    before = _claimed(out, wanted)
    measures = [in_folder(measure, out) for measure in reference.measures]
    missing = [measure for measure in measures if not _is_there(measure, before)]
    if not before:
        zips = _checked_zips(wanted, source)
        out.mkdir(parents=True, exist_ok=True)
        before = wanted.made_of | {"finished": False, "zips": zips, "references": {}}
        write_provenance(out, before)
    elif before["finished"] and not missing and (out / PROMPTS).is_file():
        print(f"{out} is complete; remove it to make it anew")
        return 0
    write_text(out / PROMPTS, wanted.prompts)
    if missing:
        before = before | _references(wanted, missing, before, out=out, workers=workers)
    write_provenance(out, before | {"finished": True})
    files = [out / PROMPTS, *(file for each in measures for file in reference_files(each))]
    print(f"wrote {', '.join(map(str, files))}; what they were made of: {out / PROVENANCE}")
    return 0


def _claimed(out: Path, wanted: Wanted) -> dict[str, Any]:
    """What was made of the set before; nothing else may be in its folder."""
    before = read_provenance(out)
    if before is None:
        there = next(out.iterdir(), None) if out.is_dir() else None
        if there is not None:  # files that it writes over, or a folder that it removes
            raise InputError(
                f"{out} holds {there.name}, which is not of bksdm prepare; use another out="
            )
        return {}
    differ = differing_keys(before, wanted.made_of, free=_FREE)
    if differ:
        raise InputError(
            f"{out} was made otherwise ({', '.join(differ)} differ, see {PROVENANCE} in it); use"
            " another out=, or remove it"
        )
    return before


def _is_there(measure: OnFeatures, before: Mapping[str, Any]) -> bool:
    known = before.get("references", {})
    return all(file.is_file() and file.name in known for file in reference_files(measure))


def _checked_zips(wanted: Wanted, source: CocoSource) -> dict[str, str]:
    """MD5 of the zips that were given."""
    part = PARTS[wanted.reference.part]
    found = {}
    for path in (Path(source.annotations), Path(source.images)):
        if path.suffix.lower() == ".zip":
            print(f"checking {path.name}, {path.stat().st_size / 1e9:.1f} GB", flush=True)
            found[path.name] = check_zip(path, part, allow_other=wanted.partial)
    return found


def _references(
    wanted: Wanted,
    measures: Sequence[OnFeatures],
    before: Mapping[str, Any],
    *,
    out: Path,
    workers: int,
) -> dict[str, Any]:
    """Write the reference files of these measures; what provenance says of them."""
    keeping, names = wanted.reference.protocol.keeping, wanted.names
    batches = partial(
        kept_batches,
        wanted.copy.photographs,
        keeping=keeping,
        batch_size=_BATCH,
        workers=workers if workers > 1 else 0,
    )
    with Progress(len(names), what="reference", unit="photograph") as progress:
        digests = write_all(
            measures,
            names,
            batches,
            keeping=keeping,
            folder=out,
            source=wanted.source,
            device=best_device(),
            advance=progress.advance,
        )
    photographs = sha256_of_set(names, digests)
    if before.get("photographs", photographs) != photographs:
        raise InputError(
            f"{out}: the photographs have changed since its other references were made; put them"
            " back, or remove it"
        )
    files = [file for measure in measures for file in reference_files(measure)]
    return {
        "references": before["references"] | {file.name: sha256_of(file) for file in files},
        "photographs": photographs,
        "made_with": {
            "bksdm": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            # JPEG's bytes, and so FID, depend on it in the last digits.
            "libjpeg_turbo": features.version_feature("libjpeg_turbo"),
        },
    }
