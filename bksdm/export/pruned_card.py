"""The model card of a pruned pipeline: what is zero, what that saves on disk, how it is loaded.

Knows the Hub's card format. Knows nothing of how weights were chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from bksdm.export.card import TASK
from bksdm.export.license import License
from bksdm.export.packed import packed_bytes
from bksdm.surgery.sparse.plan import ComponentSparsity

_TAGS: Final = ("stable-diffusion", "pruned", "sparse")
_MB: Final = 10**6


@dataclass(frozen=True, kw_only=True)
class Space:
    """A pruned component and its weights on disk.

    Attributes:
        part: its zeros.
        dense: bytes with the zeros.
        packed: bytes of the packed file.
    """

    part: ComponentSparsity
    dense: int
    packed: int

    @property
    def cells(self) -> tuple[str, ...]:
        """Of the card's table: component, asked for, zeros in what was pruned and in all of it,
        sizes.
        """
        part = self.part
        return (
            part.component,
            f"{100 * part.requested:.2f} %",
            f"{100 * part.zeros / max(part.prunable, 1):.2f} %",
            f"{100 * part.zeros / part.parameters:.2f} %",
            f"{self.dense / _MB:,.1f} MB",
            f"{self.packed / _MB:,.1f} MB",
        )


@dataclass(frozen=True, kw_only=True)
class PrunedCard:
    """All that a card says.

    Attributes:
        name: of the folder.
        format: "dense" or "packed".
        dtype: of the weights.
        rows: of the pruned components.
        license: of the unpruned model; None where it is not known.
        guidance: that suits it; None where it is not known.
        narrow: whether its U-Net is.
    """

    name: str
    format: Literal["dense", "packed"]
    dtype: str
    rows: Sequence[Space]
    license: License | None = None
    guidance: float | None = None
    narrow: bool = False


def space(part: ComponentSparsity, network: nn.Module, dtype: torch.dtype) -> Space:
    """What a component takes on disk, dense and packed, with weights of `dtype`."""
    state = network.state_dict()
    sizes = (
        tensor.numel() * (dtype if tensor.is_floating_point() else tensor.dtype).itemsize
        for tensor in state.values()
    )
    names = [each.name for each in part.tensors]
    return Space(part=part, dense=sum(sizes), packed=packed_bytes(state, names=names, dtype=dtype))


def pruned_card_text(card: PrunedCard) -> str:
    """The whole README.md."""
    pages = Environment(
        loader=PackageLoader("bksdm.export", package_path=""),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # it is markdown
    )
    data = ModelCardData(
        license=card.license.id if card.license else None,
        license_name=card.license.name if card.license else None,
        license_link=card.license.link if card.license else None,
        library_name="diffusers" if card.format == "dense" and not card.narrow else "bksdm",
        pipeline_tag=TASK,
        tags=list(_TAGS),
        model_name=card.name,
    )
    body = pages.get_template("pruned.md.j2").render(
        **vars(card),
        guidance_argument="" if card.guidance is None else f", guidance_scale={card.guidance:g}",
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"
