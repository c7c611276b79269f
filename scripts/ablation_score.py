"""Score one run of the ablation: RUN PROMPTS -> RUN/ablation.json."""

import csv
import json
import sys
from pathlib import Path

from bksdm.cli.models import named_pipeline
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.shapes import ShapesProtocol, evaluate_shapes


def main(run: Path, prompts: int) -> None:
    """Attribute accuracy and losses of the run's student."""
    sampling = Sampling(steps=25, guidance=3.0, batch_size=64)
    protocol = ShapesProtocol(
        prompts=prompts, held_out=0, seed=1_000_000, sampling=sampling, loss_samples=1024
    )
    result, _ = evaluate_shapes(named_pipeline(str(run)), protocol, name=run.name)
    with (run / "metrics.csv").open(newline="") as file:
        validation = [float(row["val/task"]) for row in csv.DictReader(file) if row.get("val/task")]
    scores = {name: 100 * result.accuracy[name].value for name in ("all", "shape")}
    losses = {"denoising_loss": result.denoising_loss, "validation_task": validation[-1]}
    (run / "ablation.json").write_text(json.dumps(scores | losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
