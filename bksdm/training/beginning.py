"""What a student is before training, where that is another model than its teacher: a pruned one, or
the student of a run.

Knows diffusers folders, block plans and masks. Knows nothing of losses and steps.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from bksdm.errors import InputError
from bksdm.export.narrow import narrow_plan
from bksdm.export.pipeline import load_pipeline
from bksdm.export.sparse import folder_sparsity, nonzero, recounted
from bksdm.models.source import plain_config
from bksdm.models.teacher import Teacher, weights_hash
from bksdm.surgery import plans
from bksdm.surgery.plans import Plan
from bksdm.surgery.sparse.plan import SparsityPlan, check_masks
from bksdm.surgery.width import WidthPlan
from bksdm.training.folder import RunFolder

Config = plans.Config
Names = Callable[[str], str]

# A text encoder that agrees in these takes the teacher's tokens, and makes states for its U-Net.
_TEXT_SIZES: Final = ("hidden_size", "vocab_size", "max_position_embeddings")


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A student before training, and what belongs to it.

    Attributes:
        unet: to be trained.
        text_encoder: its own; None where it is the teacher's.
        sparsity: what is zero, by the student's names; None where nothing was pruned.
        masks: by tensor of the U-Net, where it is not zero (bool, its shape); elsewhere it stays
            zero. Tensors without a zero are left out.
        identity: plain values that tell this beginning from others; None without an ancestor.
    """

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel | None = None
    sparsity: SparsityPlan | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    identity: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """The model that a student begins as; nothing large of it is read yet.

    Attributes:
        name: as it was given.
        folder: a diffusers folder.
        unet: config of its U-Net.
        sparsity: its zeros; None where it says nothing of them.
        narrow: what it was cut to, where its config does not say that; None for a stock U-Net.
    """

    name: str
    folder: Path
    unet: Config
    sparsity: SparsityPlan | None
    narrow: WidthPlan | None = None

    @property
    def own_text(self) -> bool:
        """True if its text encoder is another than the teacher's, as it says itself."""
        return bool(self.sparsity and self.sparsity.of("text_encoder"))

    def origin(self, teacher: Config, plan: Plan) -> Names:
        """The ancestor's names of the student's tensors.

        Args:
            teacher: config of the teacher's U-Net.
            plan: of the student.

        Raises:
            InputError: its U-Net has the shape of neither.
        """
        if self._is_student(teacher, plan):
            return str
        if self.narrow is not None:
            raise InputError(
                f"method.init={self.name}: its U-Net is narrow, cut to another plan than the"
                " student's; expected the folder of this plan's expert, or of a whole teacher"
            )
        if plain_config(self.unet) == plain_config(teacher):
            return partial(plans.teacher_name, plan=plan, config=teacher)
        raise InputError(
            f"method.init={self.name}: its U-Net has another shape ({_shape(self.unet)}); expected"
            f" the student's ({_shape(plans.student_config(teacher, plan))}) or the teacher's"
            f" ({_shape(teacher)}); choose its student= or teacher="
        )

    def _is_student(self, teacher: Config, plan: Plan) -> bool:
        """True if it has the student's shape already."""
        narrow = plan if isinstance(plan, WidthPlan) else None
        wanted = plans.student_config(teacher, plan)
        return self.narrow == narrow and plain_config(self.unet) == plain_config(wanted)

    def student(self, teacher: Config, plan: Plan) -> UNet2DConditionModel:
        """Its U-Net as the student: as it is, or cut; see `origin`.

        Raises:
            InputError: it cannot be read, has another shape, or other zeros than it says.
        """
        self.origin(teacher, plan)
        return self._cut(self._read().unet, teacher, plan)

    def beginning(self, teacher: Teacher, plan: Plan) -> Beginning:
        """The student with all that belongs to it.

        Raises:
            InputError: see `student`; or its text encoder is not for the teacher's tokens.
        """
        config = teacher.unet.config
        origin, pipeline = self.origin(config, plan), self._read()
        unet = self._cut(pipeline.unet, config, plan)
        text = self._own_text(pipeline.text_encoder, teacher)
        networks: dict[str, tuple[nn.Module, Names]] = {
            "unet": (unet, origin),
            "text_encoder": (pipeline.text_encoder, str),
        }
        sparsity = _recounted(self.sparsity, networks)
        return Beginning(
            unet=unet,
            text_encoder=text,
            sparsity=sparsity,
            masks=nonzero(sparsity, unet),
            identity={
                "path": self.name,
                "unet": weights_hash(unet),
                "text_encoder": None if text is None else weights_hash(text),
                "sparsity": None if sparsity is None else sparsity.to_json(),
            },
        )

    def hollow(self, teacher: Teacher, plan: Plan) -> Beginning:
        """The same in sizes, but the weights are fresh; for where tensors have no contents.

        Raises:
            InputError: its U-Net has another shape.
        """
        origin = self.origin(teacher.unet.config, plan)
        part = self.sparsity and self.sparsity.of("unet")
        pruned = {tensor.name for tensor in part.tensors if tensor.zeros} if part else set()
        unet = plans.empty(teacher.unet.config, plan)
        weights = unet.state_dict().items()
        return Beginning(
            unet=unet,
            text_encoder=CLIPTextModel(teacher.text_encoder.config) if self.own_text else None,
            masks={
                name: torch.ones(weight.shape, dtype=torch.bool)
                for name, weight in weights
                if origin(name) in pruned
            },
        )

    def _read(self) -> StableDiffusionPipeline:
        try:
            pipeline = load_pipeline(self.folder)
        except InputError as error:
            raise InputError(f"method.init={self.name}: {error}") from error
        for part in self.sparsity.components if self.sparsity else ():
            check_masks(part, getattr(pipeline, part.component).state_dict().items())
        for network in (pipeline.unet, pipeline.text_encoder):
            for parameter in network.parameters():
                # Weights mapped from a file may lie unaligned, where CPU kernels round otherwise.
                parameter.data = parameter.data.clone()
        return pipeline

    def _cut(self, unet: UNet2DConditionModel, teacher: Config, plan: Plan) -> UNet2DConditionModel:
        return unet if self._is_student(teacher, plan) else plans.cut(unet, plan)

    def _own_text(self, own: CLIPTextModel, teacher: Teacher) -> CLIPTextModel | None:
        if weights_hash(own) == weights_hash(teacher.text_encoder):
            return None
        for name in _TEXT_SIZES:
            there, wanted = (getattr(each.config, name) for each in (own, teacher.text_encoder))
            if there != wanted:
                raise InputError(
                    f"method.init={self.name}: its text encoder has {name}={there}; expected the"
                    f" teacher's {wanted}, as both read the same tokens; prune this teacher"
                )
        return own


def find_ancestor(name: str) -> Ancestor:
    """The model in a folder: a run's student, or any diffusers folder.

    Raises:
        InputError: there is none.
    """
    given = Path(name).expanduser()
    run = RunFolder(given)
    folder = run.student if run.config.is_file() else given
    if not folder.is_dir():
        more = "; finish that run first" if folder != given else ""
        raise InputError(
            f"method.init={name}: {folder} is not there; expected teacher or random, or the folder"
            f" of a pruned model or a run{more}"
        )
    try:
        unet = json.loads((folder / "unet" / "config.json").read_text())
        unet["block_out_channels"], unet["down_block_types"], unet["layers_per_block"]
        # Entries that older versions did not write have their defaults.
        with torch.device("meta"):
            config = UNet2DConditionModel.from_config(unet).config
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"method.init={name}: {folder} has no readable unet/config.json"
            f" ({type(error).__name__}); expected a diffusers folder or a run"
        ) from error
    return Ancestor(
        name=name,
        folder=folder,
        unet=config,
        sparsity=folder_sparsity(folder),
        narrow=narrow_plan(folder),
    )


def _recounted(
    plan: SparsityPlan | None, networks: Mapping[str, tuple[nn.Module, Names]]
) -> SparsityPlan | None:
    """By the student's names; a part of which everything was cut away goes."""
    parts = []
    for part in plan.components if plan else ():
        network, origin = networks[part.component]
        parts.append(recounted(part, network, origin=origin))
    kept = tuple(part for part in parts if part.tensors)
    return SparsityPlan(components=kept) if kept else None


def _shape(config: Config) -> str:
    mid = "with" if config.get("mid_block_type", True) else "without"
    channels = list(config["block_out_channels"])
    return f"{config['layers_per_block']} layers a stage of {channels} channels, {mid} mid block"
