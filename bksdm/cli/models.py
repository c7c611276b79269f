"""Models named on the command line: a run, a diffusers folder, a Hub id, or an embedded teacher."""

from pathlib import Path

from diffusers import StableDiffusionPipeline

from bksdm.errors import InputError
from bksdm.export.pipeline import load_pipeline
from bksdm.models.source import embedded_folder
from bksdm.training.folder import RunFolder


def named_pipeline(name: str) -> StableDiffusionPipeline:
    """The pipeline that a name stands for.

    Raises:
        InputError: nothing there.
    """
    if name == "shapes":
        return load_pipeline(embedded_folder("shapes"))
    folder = RunFolder(Path(name))
    if folder.config.exists():
        if not folder.student.exists():
            raise InputError(
                f"run {name} has no student yet; finish it, or use `bksdm export run={name}`"
            )
        return load_pipeline(folder.student)
    if not folder.path.exists() and folder.path.parent != Path() and folder.path.parent.is_dir():
        raise InputError(
            f"model {name}: nothing there; expected a run, a diffusers folder or a Hub id"
        )
    return load_pipeline(name)
