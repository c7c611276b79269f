"""A pruned pipeline as a folder: stock, with its zeros, or packed and smaller. Written whole or not
at all, and proven before it gets its name.

Knows how to write and prove it. Knows nothing of how weights were chosen.
"""

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from bksdm import expected
from bksdm.export.about import About, write_about
from bksdm.export.license import License
from bksdm.export.narrow import write_plan, write_unet
from bksdm.export.packed import rounded, write_packed
from bksdm.export.pipeline import write_guidance
from bksdm.export.proof import prove
from bksdm.export.pruned_card import PrunedCard, pruned_card_text, space
from bksdm.export.pruned_proof import claim_of, compare_folder, shadow
from bksdm.export.sparse import SPARSITY, write_sparsity
from bksdm.export.whole import open_all_to_others, refuse_others, replace_folder, scratch_folder
from bksdm.models.source import PACKED
from bksdm.surgery.sparse.plan import ComponentSparsity, SparsityPlan, check_masks, counted
from bksdm.surgery.width import WidthPlan

_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class PrunedSettings:
    """How a pruned pipeline is written.

    Attributes:
        format: "dense", which stock diffusers reads, or "packed", which is smaller and which
            `load_pipeline` reads.
        dtype: "float32", or "float16".
        fresh_process: prove a dense folder in a process of its own, without bksdm, too. A packed
            one is read back here in any case: nobody else can.
    """

    format: Literal["dense", "packed"] = "dense"
    dtype: Literal["float32", "float16"] = "float32"
    fresh_process: bool = True

    def __post_init__(self) -> None:
        expected.one_of("export.format", self.format, ("dense", "packed"))
        expected.one_of("export.dtype", self.dtype, tuple(_DTYPES))
        expected.switch("export.fresh_process", self.fresh_process)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The same for torch."""
        return _DTYPES[self.dtype]

    def told(self, narrow: WidthPlan | None = None) -> str:
        """What is written, and how it is proven, in words; of a narrow U-Net with its plan."""
        if self.format == "dense" and self.fresh_process and narrow is None:
            proof = "stock diffusers draws the same picture in a fresh process, bit for bit"
        else:
            proof = "reloaded and compared in this process, bit for bit"
        own = "narrow: read by bksdm alone, " * (narrow is not None)
        return f"{self.format}, {self.dtype}, {own}{proof}"


def export_pruned(
    pipeline: StableDiffusionPipeline,
    folder: Path,
    plan: SparsityPlan,
    *,
    settings: PrunedSettings,
    about: About | None = None,
    guidance: float | None = None,
    license: License | None = None,
    narrow: WidthPlan | None = None,
) -> None:
    """Write a pruned pipeline, prove it, and only then give the folder its name.

    What lies beside it in memory is at most one network as it is written; for the proof of a dense
    float16 folder, the whole pipeline with rounded weights.

    Args:
        pipeline: that has the zeros; stays as it is.
        folder: to write, or to replace.
        plan: what is zero in it. In float16 small weights become zero: the folder's sparsity.json
            has what is zero there.
        settings: in which form, and how it is proven.
        about: for `bksdm.json`; None writes none.
        guidance: classifier-free guidance scale that suits it; None says nothing.
        license: of the unpruned model, for the card; None where that is not known.
        narrow: what its U-Net was cut to, which its config does not say; None for a stock one.
            A narrow one is proven here alone: nobody else reads it.

    Raises:
        InputError: the folder holds what we did not write, the plan is of other weights, or a
            weight is beyond the range of float16.
        RuntimeError: what was written differs, in weights, config or output.
    """
    folder, dtype = folder.resolve(), settings.torch_dtype
    refuse_others(folder, mark=SPARSITY)
    plan = as_rounded(plan, pipeline, dtype)
    with scratch_folder(folder, "tmp") as temporary, scratch_folder(folder, "proof") as scratch:
        _write(pipeline, temporary, plan, settings, narrow)
        write_sparsity(temporary, plan)
        if guidance is not None:
            write_guidance(temporary, guidance)
        if about is not None:
            write_about(temporary, replace(about, export=asdict(settings)))
        card = PrunedCard(
            name=folder.name,
            format=settings.format,
            dtype=settings.dtype,
            rows=[
                space(part, getattr(pipeline, part.component), dtype) for part in plan.components
            ],
            license=license,
            guidance=guidance,
            narrow=narrow is not None,
        )
        (temporary / "README.md").write_text(pruned_card_text(card))
        open_all_to_others(temporary)
        compare_folder(pipeline, temporary, plan, dtype)
        if settings.format == "dense" and settings.fresh_process and narrow is None:
            prove([claim_of(pipeline, temporary, dtype)], scratch)
        replace_folder(folder, temporary)


def as_rounded(
    plan: SparsityPlan, pipeline: StableDiffusionPipeline, dtype: torch.dtype
) -> SparsityPlan:
    """The plan of the weights as they are written: small ones are zero in half precision.

    Raises:
        InputError: the plan is of other weights.
    """
    parts = []
    for part in plan.components:
        state = getattr(pipeline, part.component).state_dict()
        check_masks(part, state.items())
        tensors = tuple(
            counted(
                each.name,
                rounded(each.name, state[each.name], dtype),
                criterion=each.criterion,
                requested=each.requested,
            )
            for each in part.tensors
        )
        parts.append(replace(part, tensors=tensors))
    return replace(plan, components=tuple(parts))


def _write(
    pipeline: StableDiffusionPipeline,
    folder: Path,
    plan: SparsityPlan,
    settings: PrunedSettings,
    narrow: WidthPlan | None,
) -> None:
    # As `save_pretrained` of the pipeline does it, but with one network at a time as it is written.
    for name, component in pipeline.components.items():
        part = plan.of(name) if settings.format == "packed" else None
        if component is None:
            continue
        if part is not None:
            _write_part(component, folder / name, part, settings)
        elif narrow is not None and isinstance(component, UNet2DConditionModel):
            write_unet(component, folder / name, narrow, dtype=settings.torch_dtype)
        elif isinstance(component, nn.Module):
            shadow(component, settings.torch_dtype).save_pretrained(folder / name)
        else:
            component.save_pretrained(folder / name)
    if narrow is not None:
        write_plan(folder / "unet", narrow)
    pipeline.save_config(folder)


def _write_part(
    network: Any, folder: Path, part: ComponentSparsity, settings: PrunedSettings
) -> None:
    folder.mkdir()
    if isinstance(network, UNet2DConditionModel):
        network.save_config(folder)
    else:
        config = copy.deepcopy(network.config)
        config.architectures, config.dtype = [type(network).__name__], settings.dtype
        config.save_pretrained(folder)
    names = [each.name for each in part.tensors]
    write_packed(network.state_dict(), folder / PACKED, names=names, dtype=settings.torch_dtype)
