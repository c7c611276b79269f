"""What `bksdm prepare source=coco reference=PROTOCOL` is to make, and how it is told."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bksdm.cli.config import switch
from bksdm.data.listing import CocoSource
from bksdm.evaluation.coco.choice import Choice, Chosen, Published
from bksdm.evaluation.coco.official import PARTS
from bksdm.evaluation.coco.reference import (
    CocoCopy,
    CocoReference,
    choose,
    read_copy,
    reference_names,
)
from bksdm.evaluation.prompt_files import prompts_text


@dataclass(frozen=True)
class Wanted:
    """What is to be made: settings, the copy of COCO, and what was chosen of it."""

    reference: CocoReference
    copy: CocoCopy
    choice: Choice
    chosen: Sequence[Chosen]
    names: Sequence[str]
    partial: bool

    @property
    def prompts(self) -> str:
        """The file of prompts."""
        return prompts_text((each.id, each.text, each.file) for each in self.chosen)

    @property
    def source(self) -> str:
        """The photographs, in words that references keep and results repeat."""
        trial = "PARTIAL, for trial: " * self.partial
        return f"{trial}{len(self.names):,} photographs of COCO {self.reference.part}"

    @property
    def made_of(self) -> dict[str, Any]:
        """Everything that says what the set is, as plain values."""
        captions, prompts = self.copy.captions, self.prompts
        return {
            "protocol": self.reference.protocol.name,
            "part": self.reference.part,
            "partial": self.partial,
            "prompts": {
                "count": len(self.chosen),
                "choice": self.choice.words,
                "sha256": hashlib.sha256(prompts.encode()).hexdigest(),
            },
            "annotations": {
                "sha256": self.copy.sha256,
                "pictures": len(captions.files),
                "captions": captions.listed,
            },
            "pictures": {"which": self.reference.pictures, "count": len(self.names)},
            "keeping": asdict(self.reference.protocol.keeping),
        }


def wanted_set(config: DictConfig, reference: CocoReference, source: CocoSource) -> Wanted:
    """What is to be made of the user's copy of COCO.

    Raises:
        InputError: a file that is no such copy, or a list of prompts that does not fit it.
    """
    trial, part = switch(config, "allow_partial"), PARTS[reference.part]
    copy = read_copy(Path(source.annotations), Path(source.images), part, allow_partial=trial)
    listed = config.reference_prompts
    choice: Choice = Published(Path(listed)) if listed else reference.choice
    chosen = choose(choice, copy, reference.count, allow_partial=trial)
    names = reference_names(copy, chosen, pictures=reference.pictures)
    return Wanted(reference, copy, choice, chosen, names, trial)


def tell(wanted: Wanted) -> None:
    """Say what is to be made, and what is not as the protocol has it."""
    captions, reference, part = wanted.copy.captions, wanted.reference, PARTS[wanted.reference.part]
    counts = f"{len(captions.files):,} pictures, {captions.listed:,} captions"
    if wanted.partial:
        counts += (
            f" of {part.images:,} and {part.captions:,}. allow_partial=true: for trial, its scores"
            " are not the protocol's"
        )
    print(f"{part.name}: {counts}")
    empty = captions.listed - len(captions.captions)
    if empty:
        print(f"left out: {empty:,} captions without text")
    print(f"prompts: {len(wanted.chosen):,}, {wanted.choice.words}")
    if isinstance(wanted.choice, Published):
        unknown = wanted.choice.unknown(captions, wanted.chosen)
        if unknown:
            print(
                f"{len(unknown):,} of their texts are no caption of their picture, word for word,"
                f" such as {unknown[0].text[:60]!r} of {unknown[0].file}"
            )
    elif reference.published:
        print(
            f"this is not the list that published scores used ({reference.published}); give it with"
            " reference_prompts=, or compare with models that are scored with this one"
        )
    keeping = {name: value for name, value in asdict(reference.protocol.keeping).items() if value}
    told = ", ".join(f"{name} {value}" for name, value in keeping.items())
    print(f"reference: {wanted.source}, kept with {told}")
