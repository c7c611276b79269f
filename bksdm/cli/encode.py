"""bksdm encode."""

import time

from omegaconf import DictConfig

from bksdm.cli.config import built, folder, number, optional_number, switch
from bksdm.cli.progress import Progress
from bksdm.data.encode import DTYPES, encode
from bksdm.data.index import build_index
from bksdm.data.latents import latent_format
from bksdm.data.store import CacheSettings, ShardStore
from bksdm.data.todo import shards_to_do
from bksdm.errors import InputError
from bksdm.export.pipeline import best_device
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import load_teacher
from bksdm.processes import this_process


def run(config: DictConfig) -> int:
    """Encode this process's part of the shards that are not there yet."""
    process = this_process()
    out = folder(config, "out")
    batch_size, workers = number(config, "batch_size", least=1), number(config, "workers", least=0)
    resolution = optional_number(config, "resolution", least=1)
    flips, text = switch(config, "flips"), switch(config, "text")
    if config.precision not in DTYPES:
        raise InputError(f"precision={config.precision}: expected one of {', '.join(DTYPES)}")
    store = ShardStore(built(config.cache, CacheSettings))
    index = build_index(config.shards, store=store)
    teacher = load_teacher(built(config.teacher, TeacherSource))
    shape = latent_format(
        teacher,
        resolution=resolution or teacher.picture_size,
        flips=flips,
        text=text,
        computed_in=config.precision,
    )
    if shape.resolution % teacher.latent_factor:
        raise InputError(
            f"resolution={shape.resolution}: expected a multiple of {teacher.latent_factor}, as"
            " the VAE halves it"
        )
    todo = shards_to_do(index, out, shape, process)
    device = best_device(process)
    teacher.encoders_to(device, dtype=DTYPES[config.precision])
    images = sum(index.counts[shard] for shard, _ in todo)
    begin = time.monotonic()
    with Progress(images, what="encode", shown=process.first) as progress:
        rejected = encode(
            index,
            teacher,
            shape,
            todo,
            store=store,
            batch_size=batch_size,
            workers=workers,
            device=device,
            on_images=progress.advance,
        )
    if not todo:
        print(f"process {process.rank} of {process.world}: all shards were there, in {out}")
        return 0
    seconds = max(time.monotonic() - begin, 1e-9)
    mine = len(range(process.rank, len(index.shards), process.world))
    print(
        f"process {process.rank} of {process.world}: {len(todo)} shards encoded,"
        f" {mine - len(todo)} were there; {images} images in {seconds:.0f} s,"
        f" {images / seconds:.1f} images/s; latents in {out}"
    )
    if rejected:
        why = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
        print(f"left out: {why}")
    return 0
