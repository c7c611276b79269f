"""bksdm export."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bksdm.cli.config import built
from bksdm.errors import InputError
from bksdm.export.pipeline import export_student
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.training.checkpoint import load_student
from bksdm.training.folder import RunFolder


def run(config: DictConfig) -> int:
    """Write the diffusers folder of a run's student."""
    folder = RunFolder(Path(config.run))
    if not folder.config.exists():
        raise InputError(
            f"run={config.run}: no {folder.config}; expected a run's folder, such as"
            " runs/shapes-small"
        )
    if config.weights not in ("ema", "raw"):
        raise InputError(f"weights={config.weights}: expected ema or raw")
    of_run = OmegaConf.load(folder.config)
    assert isinstance(of_run, DictConfig)
    teacher = load_teacher(built(of_run.teacher, TeacherSource))
    student = load_student(
        Path(config.checkpoint) if config.checkpoint else folder.checkpoint, weights=config.weights
    )
    out = Path(config.out) if config.out else folder.student
    export_student(teacher, student, out, guidance=of_run.samples.sampling.guidance)
    print(f"student: {out} ({config.weights} weights, reloaded and compared)")
    return 0
