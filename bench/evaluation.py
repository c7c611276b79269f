"""What evaluation adds to the networks that it runs, in ratios: generation against the bare
diffusers pipeline, the metric pass against its network's bare forward, and memory against the
number of pictures. `make bench-eval`.

Two things that are compared take turns in one process; what is printed is the median of the turns'
ratios, with its quartiles.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from bksdm.evaluation.gallery import IMAGES, Gallery, pictures
from bksdm.evaluation.generate import Generated, Sampling
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measure import Measuring, Subject
from bksdm.evaluation.measures.cmmd import Cmmd
from bksdm.evaluation.measures.dinov2 import Dinov2
from bksdm.evaluation.measures.frechet import Frechet
from bksdm.evaluation.measures.on_features import OnFeatures
from bksdm.evaluation.prompts import Prompt, shapes_prompts
from bksdm.evaluation.report import table
from bksdm.export.pipeline import best_device, load_pipeline
from bksdm.models.source import embedded_folder

Turn = Callable[[], float]
BATCH = 32  # pictures of the metric pass at once


def in_turns(ours: Turn, bare: Turn, *, turns: int) -> list[str]:
    """Pictures a second of both, and the ratio; the first turn warms up."""
    pairs = [(ours(), bare()) for _ in range(turns + 1)][1:]
    ratios = [mine / theirs for mine, theirs in pairs]
    low, median, high = statistics.quantiles(ratios, n=4) if turns > 1 else ratios * 3
    rates = [f"{statistics.median(side):.3g}" for side in zip(*pairs, strict=True)]
    return [*rates, f"{median:.3f} ({low:.3f} - {high:.3f})"]


def rate(work: Callable[[], None], count: int, device: torch.device) -> float:
    """Pictures a second."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count / (time.perf_counter() - begin)


def empty_gallery(folder: Path, *, latents: bool) -> Gallery:
    """With nothing in it."""
    (folder / IMAGES).mkdir(parents=True)
    return Gallery(folder, Keeping(), latents=latents)


def generation(pipeline: StableDiffusionPipeline, *, batch: int, steps: int, turns: int) -> str:
    """Pictures kept as files, one seed a prompt, against the pipeline called at the same batch."""
    sampling = Sampling(steps=steps, guidance=3.0, batch_size=batch)
    prompts, device = shapes_prompts(batch, seed=0), pipeline.device

    def ours() -> None:
        with tempfile.TemporaryDirectory() as place:
            gallery = empty_gallery(Path(place) / "gallery", latents=True)
            for _ in pictures(pipeline, prompts, sampling, gallery):
                pass

    def bare() -> None:
        pipeline(
            [prompt.text for prompt in prompts],
            num_inference_steps=steps,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(0),
        )

    row = in_turns(
        lambda: rate(ours, batch, device), lambda: rate(bare, batch, device), turns=turns
    )
    title = f"embedded teacher, batch {batch}, {steps} steps, PNG and latents kept"
    return table([[title, *row]], header=["images/s", "evaluate", "bare pipeline", "ratio"])


def random_dinov2(folder: Path, *, width: int, layers: int) -> Path:
    """A network of that size with random weights."""
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64
    )
    torch.manual_seed(0)
    Dinov2Model(config).save_pretrained(folder)
    return folder


def filled_gallery(folder: Path, prompts: list[Prompt], *, side: int) -> Gallery:
    """Pictures of noise."""
    gallery = empty_gallery(folder, latents=False)
    rng = torch.Generator().manual_seed(0)
    for prompt in prompts:
        pixels = torch.randint(256, (3, side, side), dtype=torch.uint8, generator=rng)
        gallery.add(Generated(prompt, torch.zeros(1), pixels))
    return gallery


@dataclass(frozen=True)
class Noise:
    """Reference pictures."""

    count: int

    def batches(self, keeping: Keeping) -> Iterator[torch.Tensor]:
        """As many as the model's."""
        del keeping
        rng = torch.Generator().manual_seed(1)
        for start in range(0, self.count, BATCH):
            size = min(BATCH, self.count - start)
            yield torch.randint(256, (size, 3, 256, 256), dtype=torch.uint8, generator=rng)


def begun(weights: Path, count: int, subject: Subject) -> Measuring:
    """FD and CMMD on a network that is loaded, beside a reference set that is ready."""
    measure = OnFeatures(
        network=Dinov2(weights=str(weights)),
        metrics=[Frechet(reference=Noise(count), name="FD"), Cmmd(reference=Noise(count))],
    )
    return measure.begin(subject)


def measured(
    gallery: Gallery, prompts: list[Prompt], measuring: Measuring, subject: Subject
) -> None:
    """The pass: kept files to scores."""
    nothing = Sampling(steps=1, guidance=1.0, batch_size=BATCH)
    for batch in pictures(subject.pipeline, prompts, nothing, gallery):
        measuring.update(batch)
    scores = measuring.scores()
    assert len(scores) == 3, "FD and both estimates of CMMD are part of the pass"


def metric_pass(folder: Path, subject: Subject, *, count: int, turns: int) -> str:
    """Read, resize, normalise, forward, add up in float64, distances; against the forward alone on
    tensors that are ready.
    """
    weights = random_dinov2(folder / "dinov2", width=384, layers=12)
    prompts = shapes_prompts(count, seed=0)
    gallery = filled_gallery(folder / "gallery", prompts, side=256)
    network = Dinov2Model.from_pretrained(weights).eval().to(subject.device)
    values = torch.randn(BATCH, 3, 224, 224, device=subject.device)
    # Loading is no part of the pass, and a pass has its own sums.
    loaded = iter([begun(weights, count, subject) for _ in range(turns + 1)])

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, count, BATCH):
                forward(network, values[: count - start])

    def pass_rate(measuring: Measuring) -> float:
        return rate(lambda: measured(gallery, prompts, measuring, subject), count, subject.device)

    row = in_turns(
        lambda: pass_rate(next(loaded)),
        lambda: rate(bare, count, subject.device),
        turns=turns,
    )
    title = f"ViT-S/14 of random weights, {count} pictures of 256 pixels: FD and CMMD"
    return table([[title, *row]], header=["pictures/s", "pass", "bare forward", "ratio"])


def forward(network: nn.Module, values: torch.Tensor) -> None:
    """One batch."""
    network(pixel_values=values)


def peak_memory(count: int, subject: Subject) -> float:
    """MiB that this process has held at most after a pass over so many pictures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        weights = random_dinov2(folder / "dinov2", width=64, layers=1)
        prompts = shapes_prompts(count, seed=0)
        gallery = filled_gallery(folder / "gallery", prompts, side=256)
        measured(gallery, prompts, begun(weights, count, subject), subject)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(counts: list[int]) -> str:
    """Each in a process of its own."""
    rows = []
    for count in counts:
        command = [sys.executable, "-m", "bench.evaluation", "--peak-of", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        pixels = count * 3 * 256 * 256 / 2**20
        rows.append([f"{count:,} pictures", done.stdout.split()[-1], f"{pixels:,.0f}"])
    return table(rows, header=["metric pass", "peak MiB", "MiB of their pixels"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16, help="images at once")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--pictures", type=int, default=64, help="of the metric pass")
    parser.add_argument("--peak-of", type=int, help="print one process's peak memory and end")
    arguments = parser.parse_args()
    pipeline = load_pipeline(embedded_folder("shapes")).to(best_device())
    subject = Subject(pipeline, pipeline.device, Keeping())
    if arguments.peak_of:
        print(f"{peak_memory(arguments.peak_of, subject):.0f}")
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {pipeline.device}\n")
    print(generation(pipeline, batch=arguments.batch, steps=arguments.steps, turns=arguments.turns))
    with tempfile.TemporaryDirectory() as place:
        passed = metric_pass(Path(place), subject, count=arguments.pictures, turns=arguments.turns)
    print(f"\n{passed}")
    print(f"\n{memory([250, 1000, 4000])}")


if __name__ == "__main__":
    main()
