"""Data at cluster scale, in ratios: reading, encoding, start-up and resume. `make bench-data`.

Two things that are compared take turns in one process, so that the machine's moods hit both; what
is printed is the median of the turns' ratios, with its quartiles.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from bksdm.data.contents import META
from bksdm.data.encode import encode
from bksdm.data.exact import Batches, Loading, Share
from bksdm.data.index import build_index
from bksdm.data.latents import latent_format
from bksdm.data.order import Order
from bksdm.data.record import Record, finish, unfinished
from bksdm.data.samples import Latents, Pictures, SampleSettings, ShardDataset, token_ids
from bksdm.data.shapes import samples
from bksdm.data.shards import ShardReader, write_shard
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.data.table import TABLE_NAME
from bksdm.data.todo import shards_to_do
from bksdm.data.transforms import pixel_tensor
from bksdm.diffusion import sample_randomness
from bksdm.evaluation.report import table
from bksdm.models.source import TeacherSource, embedded_folder
from bksdm.models.teacher import Teacher, load_teacher
from bksdm.processes import Process

BATCH = 64
CAPTION = "a big red circle left of a small blue square on a white background"


def ratios(ours: Callable[[], float], plain: Callable[[], float], *, turns: int) -> list[str]:
    """Rates of two things that take turns (the first turn warms up), and the ratio."""
    pairs = [(ours(), plain()) for _ in range(turns + 1)][1:]
    low, median, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    rates = [f"{statistics.median(values):,.0f}" for values in zip(*pairs, strict=True)]
    return [*rates, f"{median:.2f} ({low:.2f} - {high:.2f})"]


def latent_shards(folder: Path, *, shards: int, count: int) -> None:
    """Shards of random moments as SD has them at 512 pixels."""
    values = np.random.default_rng(0).normal(size=(8, 64, 64)).astype(np.float16)
    buffer = io.BytesIO()
    np.save(buffer, values)
    for shard in range(shards):
        path = folder / f"{shard:05d}.tar"
        with unfinished(path) as temporary:
            with wds.TarWriter(str(temporary), mtime=0) as tar:
                tar.write({"__key__": META.removesuffix(".json"), "json": b'{"resolution": 512}'})
                for row in range(count):
                    sample = {"moments.npy": buffer.getvalue(), "txt": CAPTION.encode()}
                    tar.write({"__key__": f"{row:06d}", **sample})
            finish(temporary, path, Record(count, latents={"resolution": 512}))


def reading(folder: Path, *, turns: int) -> str:
    """Latent samples/s in one process: plain webdataset against the exact reader."""
    latent_shards(folder, shards=4, count=1024)
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer")
    settings = SampleSettings(
        tokenizer=tokenizer, kind=Latents({"moments": (8, 64, 64)}), flip=False, caption_dropout=0.1
    )
    index = build_index(f"{folder}/*.tar")
    order = Order(counts=index.counts, seed=0, global_batch=BATCH)
    dataset = ShardDataset(ShardReader(index), order, settings)
    steps = itertools.count()
    plain = itertools.chain.from_iterable(itertools.repeat(webdataset_batches(folder)))

    def ours(*, randomness: bool) -> float:
        begin, count = time.perf_counter(), 16
        for step in itertools.islice(steps, count):
            batch = dataset.__getitems__(range(step * BATCH, (step + 1) * BATCH))
            if randomness:
                sample_randomness(batch.seeds, (4, 64, 64), steps=1000)
        return count * BATCH / (time.perf_counter() - begin)

    def theirs(*, same_work: bool) -> float:
        begin, count = time.perf_counter(), 16
        for arrays, captions in itertools.islice(plain, count):
            if same_work:
                torch.stack([torch.from_numpy(array).float() for array in arrays])
                token_ids(captions, tokenizer)
        return count * BATCH / (time.perf_counter() - begin)

    rows = [
        [
            "reading, tokens, order and per-sample randomness; webdataset only reads",
            *ratios(lambda: ours(randomness=True), lambda: theirs(same_work=False), turns=turns),
        ],
        [
            "the same but for timestep and noise, which the training process draws",
            *ratios(lambda: ours(randomness=False), lambda: theirs(same_work=False), turns=turns),
        ],
        [
            "the same; webdataset makes tensors and tokens, too",
            *ratios(lambda: ours(randomness=False), lambda: theirs(same_work=True), turns=turns),
        ],
    ]
    return table(rows, header=["latent samples/s, one process", "ours", "webdataset", "ratio"])


def webdataset_batches(folder: Path) -> Iterator[tuple[list[np.ndarray], list[str]]]:
    """Batches as webdataset reads and decodes them."""
    shards = sorted(map(str, folder.glob("*.tar")))
    samples = iter(
        wds.WebDataset(shards, shardshuffle=False, empty_check=False)
        .decode()
        .to_tuple("moments.npy", "txt")
        .repeat()
    )
    while True:
        arrays, captions = zip(*itertools.islice(samples, BATCH), strict=True)
        yield list(arrays), list(captions)


def encoding(folder: Path, *, turns: int) -> str:
    """Pictures/s of `encode` against the VAE alone on tensors that are ready."""
    rows = []
    teacher = load_teacher(TeacherSource(name="shapes", path="embedded:shapes"))
    rows.append(["embedded VAE, 64 pixels", *_encoding(teacher, 64, folder / "64", 4096, turns)])
    config = AutoencoderKL.load_config(embedded_folder("shapes") / "vae")
    large = {**config, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
             "down_block_types": ["DownEncoderBlock2D"] * 4,
             "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 32}  # fmt: skip
    teacher = Teacher(**{**vars(teacher), "vae": AutoencoderKL.from_config(large)})
    rows.append(
        ["SD's VAE, random weights, 64 pixels", *_encoding(teacher, 64, folder / "sd", 320, 3)]
    )
    threads = torch.get_num_threads()
    return table(rows, header=[f"pictures/s, {threads} threads", "encode", "bare VAE", "ratio"])


def _encoding(teacher: Teacher, resolution: int, folder: Path, count: int, turns: int) -> list[str]:
    pictures = [image for _, image in samples(count, seed=0)]
    rows = [(f"{row:06d}", image, CAPTION) for row, image in enumerate(pictures)]
    write_shard(folder / "pictures.tar", rows)
    index = build_index(str(folder / "pictures.tar"))
    pixels = torch.stack(
        [pixel_tensor(image, resolution=resolution, flip=False) for image in pictures]
    )
    shape = latent_format(teacher, resolution=resolution, flips=False, text=False)
    out = folder / "latents"

    def ours() -> float:
        shutil.rmtree(out, ignore_errors=True)
        todo = shards_to_do(index, out, shape, Process(rank=0, world=1, local_rank=0))
        begin = time.perf_counter()
        encode(
            index, teacher, shape, todo, store=ShardStore(CacheSettings()), batch_size=32,
            workers=1, device=torch.device("cpu"), on_images=lambda _: None,
        )  # fmt: skip
        return count / (time.perf_counter() - begin)

    def bare() -> float:
        begin = time.perf_counter()
        for batch in pixels.split(32):
            teacher.encode_moments(batch)
        return count / (time.perf_counter() - begin)

    return ratios(ours, bare, turns=turns)


def resuming(folder: Path, *, turns: int) -> str:
    """Seconds from nothing to the first batch, at step 0 and at step 1,000,000."""
    del folder
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer")
    settings = SampleSettings(
        tokenizer=tokenizer, kind=Pictures(64), flip=False, caption_dropout=0.1
    )

    def first_batch(step: int) -> float:
        begin = time.perf_counter()
        index = build_index("data/shapes/train-*.tar")
        order = Order(counts=index.counts, seed=step, global_batch=BATCH)
        share = Share(batch=BATCH, rank=0, world=1, first_step=step, last_step=step + 10)
        dataset = ShardDataset(ShardReader(index), order, settings)
        next(iter(Loading(0, None).loader(dataset, batch_sampler=Batches(order, share))))
        return time.perf_counter() - begin

    pairs = [(first_batch(1_000_000), first_batch(0)) for _ in range(turns + 1)][1:]
    low, median, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    late, early = (statistics.median(values) for values in zip(*pairs, strict=True))
    row = [
        "embedded world's shards", f"{late:.3f}", f"{early:.3f}",
        f"{median:.2f} ({low:.2f} - {high:.2f})",
    ]  # fmt: skip
    return table([row], header=["seconds to the first batch", "at step 1,000,000", "at 0", "ratio"])


RANK = """
import re, sys, time
def memory():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**10
pattern, rank, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
import numpy
from bksdm.data.index import build_index
from bksdm.data.order import Order
before, begin = memory(), time.perf_counter()
index = build_index(pattern)
indexed = time.perf_counter()
order = Order(counts=index.counts, seed=0, global_batch=65_536, lanes=128)
positions = next(order.micro_batches(
    first_step=step, last_step=step + 1, batch=64, rank=rank, world=1024))
samples = [order.sample(position) for position in positions]
seconds = time.perf_counter() - begin
shards = len({shard for shard, _ in samples})
print(index.samples, seconds, indexed - begin, memory(), memory() - before, shards)
"""


def simulated(folder: Path, *, turns: int) -> str:
    """Start-up of single ranks of 1,024, with 1,000,000,000 samples in 100,000 shards."""
    rows = []
    for number in range(100_000):
        (folder / f"{number:06d}.tar").touch()
        stat = (folder / f"{number:06d}.tar").stat()
        rows.append([f"{number:06d}.tar", 0, stat.st_mtime_ns, 10_000, f"{number:016x}", 0, ""])
    text = json.dumps({"version": 2, "formats": [""], "shards": rows})
    (folder / TABLE_NAME).write_text(text)
    lines = []
    for rank, step in itertools.product((0, 511, 1023), (0, 1_000_000)):
        told = []
        for _ in range(turns):
            command = [sys.executable, "-c", RANK, f"{folder}/*.tar", str(rank), str(step)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            told.append([float(value) for value in done.stdout.split()])
        total, seconds, indexed, peak, grown, shards = map(
            statistics.median, zip(*told, strict=True)
        )
        assert total == 10**9
        lines.append(
            [
                f"rank {rank}, step {step:,}", f"{seconds:.2f}", f"{indexed:.2f}", f"{peak:.0f}",
                f"{grown:.0f}", f"{shards:.0f}",
            ]
        )  # fmt: skip
    header = ["1e9 samples, 1e5 shards, 1,024 ranks", "seconds", "of it index", "MiB", "of it data"]
    return table(lines, header=[*header, "shards in a batch"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {arguments.turns} turns\n")
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as name:
            print(f"{PARTS[part](Path(name), turns=arguments.turns)}\n", flush=True)


PARTS = {"simulated": simulated, "reading": reading, "encoding": encoding, "resuming": resuming}


if __name__ == "__main__":
    main()
