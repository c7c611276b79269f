"""`bksdm export packed=FOLDER`: a stock folder, with its zeros, of one whose weights are packed."""

from pathlib import Path

import torch

from bksdm.errors import InputError
from bksdm.export.about import about_folder
from bksdm.export.folder import ExportSettings
from bksdm.export.license import license_of_folder
from bksdm.export.narrow import narrow_plan
from bksdm.export.packed_parts import dtype_in
from bksdm.export.pipeline import folder_guidance, load_pipeline
from bksdm.export.pruned import PrunedSettings, export_pruned
from bksdm.export.sparse import folder_sparsity
from bksdm.models.address import hub_address


def unpack(packed: str, out: str | None, settings: ExportSettings) -> int:
    """Write the stock folder.

    Args:
        packed: the folder to read.
        out: the folder to write.
        settings: only `fresh_process` can be chosen.

    Raises:
        InputError: there is no such folder, or more is chosen.
    """
    if hub_address(packed) is not None:
        raise InputError(
            f"packed={packed}: expected a folder; download it first:"
            " `hf download OWNER/NAME --local-dir FOLDER`"
        )
    if out is None:
        raise InputError("out= is missing; expected the folder to write")
    if settings != ExportSettings(fresh_process=settings.fresh_process):
        raise InputError(
            f"packed={packed}: export.fp16, export.identity_mid and export.single_file are for"
            " students; leave them out"
        )
    folder, target = Path(packed).expanduser(), Path(out).expanduser()
    plan, dtype = folder_sparsity(folder), dtype_in(folder)
    if plan is None:
        raise InputError(f"packed={packed}: no sparsity.json there; expected a whole folder")
    dense = PrunedSettings(
        format="dense",
        dtype="float16" if dtype == torch.float16 else "float32",
        fresh_process=settings.fresh_process,
    )
    narrow = narrow_plan(folder)
    export_pruned(
        load_pipeline(folder),
        target,
        plan,
        settings=dense,
        about=about_folder(folder),
        guidance=folder_guidance(folder),
        license=license_of_folder(folder),
        narrow=narrow,
    )
    print(f"unpacked: {target} ({dense.told(narrow)})")
    return 0
