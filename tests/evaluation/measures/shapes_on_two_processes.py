"""Run by torchrun with a pipeline's folder: the denoising loss on shapes over gloo."""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from bksdm.evaluation.measure import Subject
from bksdm.evaluation.measures.denoising import ShapesDenoisingLoss
from bksdm.export.pipeline import load_pipeline


def main() -> None:
    """Print the score, and how many pictures this process measured."""
    dist.init_process_group("gloo")
    pipeline = load_pipeline(Path(sys.argv[1]))
    rows: list[int] = []
    pipeline.unet.register_forward_hook(
        lambda module, arguments, output: rows.append(len(arguments[0]))
    )
    (score,) = ShapesDenoisingLoss(count=5).begin(Subject(pipeline, pipeline.device)).scores()
    assert score.items is not None
    found = {
        "rows": sum(rows),
        "ids": score.items.ids,
        "values": score.items.values,
        "curve": score.details["by timestep"],
    }
    # In one write: the other process's line must not come between.
    sys.stdout.write(json.dumps(found) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
