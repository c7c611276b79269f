"""Which model `bksdm prune` prunes, and what it says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffusers import StableDiffusionPipeline
from omegaconf import DictConfig

from bksdm.cli.config import built
from bksdm.cli.models import NamedModel, guidance_of, location, named_model, teacher_source
from bksdm.errors import InputError
from bksdm.export.about import About, about_folder
from bksdm.export.license import License, license_of, license_of_folder
from bksdm.export.mixture_folder import is_mixture
from bksdm.export.narrow import narrow_plan
from bksdm.export.pipeline import assemble, folder_guidance
from bksdm.export.sparse import folder_sparsity
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.surgery.sparse.plan import SparsityPlan
from bksdm.surgery.width import WidthPlan


@dataclass(frozen=True, kw_only=True)
class ToPrune:
    """A model to prune.

    Attributes:
        name: for folders.
        load: reads it, in fp32 on the CPU.
        about: what its folder says of where it comes from; None where it says nothing.
        guidance: the guidance scale that suits it; None where that is not known.
        sparsity: what is zero in it already, if its folder says so.
        license: as its own card or its teacher says; None where neither does.
        narrow: what its U-Net was cut to, where that is narrow.
    """

    name: str
    load: Callable[[], StableDiffusionPipeline]
    about: About | None
    guidance: float | None
    sparsity: SparsityPlan | None
    license: License | None
    narrow: WidthPlan | None = None


def to_prune(config: DictConfig) -> ToPrune:
    """The model that `model=` or `teacher=` names; nothing large is read yet.

    Raises:
        InputError: there is none.
    """
    if config.model is not None:
        return _named(str(config.model))
    source = built(config.teacher, TeacherSource)
    folder = Path(source.location)
    return ToPrune(
        name=source.name,
        load=partial(_of_teacher, source),
        about=about_folder(folder),
        guidance=folder_guidance(folder),
        sparsity=folder_sparsity(folder),
        license=_inherited(source),
    )


def _named(name: str) -> ToPrune:
    model, place = named_model(name), location(name)
    teacher = teacher_source(name)
    local = place if isinstance(place, Path) else None
    if local and is_mixture(local):
        raise InputError(
            f"model={name}: a mixture is not pruned as a whole; prune its experts' runs, or another"
            " model"
        )
    own = license_of_folder(local) if local else None
    return ToPrune(
        name=Path(name).name,
        load=partial(_of_model, model),
        about=about_folder(local) if local else None,
        guidance=guidance_of(name),
        sparsity=folder_sparsity(local) if local else None,
        license=own or (_inherited(teacher) if teacher else None),
        narrow=narrow_plan(local) if local else None,
    )


def _of_model(model: NamedModel) -> StableDiffusionPipeline:
    pipeline = model.load()
    extra = pipeline.unet.config.addition_embed_type
    if extra:  # Stable Diffusion XL: of its folder, only some parts were read
        raise InputError(
            f"model {model.name}: its U-Net takes more than a text (addition_embed_type={extra});"
            " expected a model of the Stable Diffusion 1 or 2 family"
        )
    return pipeline


def _of_teacher(source: TeacherSource) -> StableDiffusionPipeline:
    teacher = load_teacher(source)
    return assemble(teacher, teacher.unet)


def _inherited(source: TeacherSource) -> License | None:
    try:
        return license_of(source, wanted=None)
    except InputError:
        return None  # the card says that it is not known
