"""Run by torchrun: all metrics on features over gloo; what each process prints must be the same.

Process 0 sees three batches, process 1 one, and of the second measure none.
"""

import json
import sys

import torch.distributed as dist
from torch import Tensor

from bksdm.evaluation.measures.frechet import Frechet
from bksdm.evaluation.measures.inception_score import InceptionScore
from bksdm.evaluation.measures.kernel import Kernel
from bksdm.evaluation.measures.on_features import OnFeatures
from tests.evaluation.measures.networks import Noise, Quarters, noise, pictures, subject

COUNT = 30
MEASURE = OnFeatures(
    network=Quarters(),
    metrics=[
        Frechet(reference=Noise(40, 1)),
        Frechet(reference="baseline", name="FD to baseline"),
        Kernel(reference=Noise(40, 1), subsets=5, subset_size=20),
        Kernel(reference="baseline", name="KD to baseline", subsets=5, subset_size=20),
        InceptionScore(),
    ],
)


def scores(parts: list[slice], ours: Tensor, theirs: Tensor) -> dict[str, tuple[float, int]]:
    """Of these slices of the pictures by this process, and of others' by the others."""
    measuring = MEASURE.begin(subject())
    for part in parts:
        measuring.update(pictures(ours[part], start=part.start, baseline=theirs[part]))
    return {score.name: (score.value, score.n) for score in measuring.scores()}


def main() -> None:
    """Print both measures' scores."""
    dist.init_process_group("gloo")
    ours, theirs = noise(COUNT, seed=0), noise(COUNT, seed=9)
    uneven = {0: [slice(20, 28), slice(0, 4), slice(4, 12)], 1: [slice(12, 20), slice(28, COUNT)]}
    found = [
        scores(uneven[dist.get_rank()], ours, theirs),
        scores([slice(0, COUNT)] * (dist.get_rank() == 0), ours, theirs),
    ]
    sys.stdout.write(json.dumps(found) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
