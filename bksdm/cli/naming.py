"""How a run is called unless its name is given; light, as every verb reads it."""

import os
from pathlib import Path
from typing import Final

EXPERT: Final = "expert"


def run_name(teacher: str, student: str, plan: str | None) -> str:
    """TEACHER-STUDENT; of an expert of `bksdm route`, ROUTE-expert-NUMBER after the run that made
    its plan: runs/ROUTE/experts/NUMBER.
    """
    if student != EXPERT or plan is None:
        return f"{teacher}-{student}"
    path = Path(os.path.abspath(Path(str(plan)).expanduser()))
    folder = path.parent if path.suffix == ".json" else path
    of = folder.parent.parent.name if folder.parent.name == "experts" else teacher
    return f"{of}-{EXPERT}-{folder.name}"
