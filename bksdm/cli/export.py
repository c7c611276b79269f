"""bksdm export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig

from bksdm.cli.config import built
from bksdm.cli.exporting_mixture import mix
from bksdm.cli.exporting_packed import unpack
from bksdm.errors import InputError
from bksdm.export.folder import ExportSettings, export_student
from bksdm.export.pipeline import folder_guidance
from bksdm.export.sparse import recount
from bksdm.models.address import hub_address
from bksdm.models.hub import hub_folder
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.surgery import plans
from bksdm.surgery.sparse.plan import SparsityPlan
from bksdm.training.beginning import find_ancestor
from bksdm.training.checkpoint import about_student, load_student, read_checkpoint
from bksdm.training.folder import RunFolder, value_of
from bksdm.training.publish import CHECKPOINT

_ON_THE_HUB: Final = ("config.yaml", CHECKPOINT)  # what is needed of a run there
_WHAT: Final = (
    "run=runs/NAME, run=hf://owner/name, checkpoint=FILE, packed=FOLDER or mixture=runs/ROUTE"
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is exported.

    Attributes:
        checkpoint: that holds the student.
        teacher: whose other parts it shares.
        guidance: that suits it; None where that is not known.
        out: where it goes unless another folder is named; None where there is no such place.
    """

    checkpoint: Path
    teacher: TeacherSource
    guidance: float | None
    out: Path | None


def run(config: DictConfig) -> int:
    """Write the diffusers folder of a student, the stock one of a packed folder, or a mixture."""
    if config.weights not in ("ema", "raw"):
        raise InputError(f"weights={config.weights}: expected ema or raw")
    settings = built(config.export, ExportSettings)
    if config.mixture is not None:
        return mix(config)
    if config.packed is not None:
        if config.run is not None or config.checkpoint is not None:
            raise InputError("packed= and run= or checkpoint= are there; expected one of them")
        return unpack(str(config.packed), config.out, settings)
    origin = _origin(config)
    out = Path(config.out).expanduser() if config.out else origin.out
    if out is None:
        raise InputError("out= is missing; expected the folder to write")
    ours = read_checkpoint(origin.checkpoint)["bksdm"]
    if "plan" not in ours:
        raise InputError(f"checkpoint {origin.checkpoint} holds a router; expected a student's")
    plan = plans.from_json(ours["plan"])
    settings.narrow(plan)  # what cannot be written is refused before anything large is read
    student = load_student(origin.checkpoint, weights=config.weights)
    teacher = load_teacher(origin.teacher)
    about = about_student(
        origin.checkpoint, weights=config.weights, teacher_unet=teacher.unet.config
    )
    around = _around(teacher, ours, origin.checkpoint)
    said = (ours.get("init") or {}).get("sparsity")
    networks = {"unet": student, "text_encoder": around.text_encoder}
    export_student(
        around,
        student,
        out,
        plan=plan,
        settings=settings,
        about=about,
        guidance=origin.guidance,
        sparsity=said and recount(SparsityPlan.from_json(said), networks),
    )
    print(f"student: {out} ({config.weights} weights of step {about.step}; {settings.told(plan)})")
    return 0


def _around(teacher: Teacher, ours: dict[str, Any], checkpoint: Path) -> Teacher:
    """The teacher, with the text encoder that the student was trained on.

    Raises:
        InputError: that was the student's own, and its folder has gone or holds another.
    """
    init = ours.get("init")
    if init is None or init["text_encoder"] is None:
        return teacher
    plan = plans.from_json(ours["plan"])
    begun = find_ancestor(init["path"]).beginning(teacher, plan)
    if begun.identity is None or begun.identity["text_encoder"] != init["text_encoder"]:
        raise InputError(
            f"checkpoint {checkpoint} was trained on another text encoder than the one in"
            f" {init['path']}; put that back"
        )
    return teacher.with_text(begun.text_encoder)


def _origin(config: DictConfig) -> Origin:
    if config.run is None and config.checkpoint is None:
        raise InputError(f"nothing to export; expected {_WHAT}")
    if config.run is None:
        return _of_checkpoint(Path(config.checkpoint).expanduser())
    address = hub_address(str(config.run))
    folder = RunFolder(
        Path(str(config.run)).expanduser()
        if address is None
        else hub_folder(address, _ON_THE_HUB, of=f"run={address}")
    )
    if not folder.config.exists():
        raise InputError(f"run={config.run}: no config.yaml there; expected {_WHAT}")
    return Origin(
        checkpoint=Path(config.checkpoint).expanduser() if config.checkpoint else folder.checkpoint,
        teacher=folder.teacher(),
        guidance=folder.guidance(),
        out=folder.student if address is None else None,
    )


def _of_checkpoint(path: Path) -> Origin:
    """A checkpoint without its run: it knows its teacher, whose guidance the student takes."""
    teacher = read_checkpoint(path)["bksdm"]["teacher"]
    if teacher["weights"] == "random":
        raise InputError(
            f"checkpoint {path} is of a dry run on a teacher with random weights, which its run"
            " alone knows; give run=, too"
        )
    source = value_of(TeacherSource, {"name": Path(teacher["path"]).name, **teacher})
    return Origin(
        checkpoint=path,
        teacher=source,
        guidance=folder_guidance(Path(source.location)),
        out=None,
    )
