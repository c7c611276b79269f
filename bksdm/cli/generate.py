"""bksdm generate."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, ListConfig

from bksdm import expected
from bksdm.cli.config import folder, plain
from bksdm.cli.contact_sheets import write_sheets
from bksdm.cli.models import EMBEDDED, guidance_of, location, named_pipeline
from bksdm.cli.progress import Progress
from bksdm.errors import InputError
from bksdm.evaluation.album import Album, made_by
from bksdm.evaluation.gallery import slug
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.prompts import FilePrompts, Prompt, from_texts
from bksdm.evaluation.turns import in_turns
from bksdm.export.pipeline import best_device

_SAMPLING: Final = ("steps", "batch_size", "scheduler", "size", "dtype")
_DEFAULT_GUIDANCE: Final = 7.5  # of diffusers' pipeline
_SIZE_UNIT: Final = 8  # what diffusers' pipeline wants sizes to be multiples of


@dataclass(frozen=True)
class Job:
    """One model's pictures: its name, how they are made, and where they go."""

    name: str
    sampling: Sampling
    album: Album


def run(config: DictConfig) -> int:
    """Write one PNG an image, and a grid of all."""
    expected.count("images_per_prompt", config.images_per_prompt, least=1)
    expected.count("seed", config.seed, least=0)
    prompts, out = _prompts(config), folder(config, "out")
    seeds = range(config.seed, config.seed + config.images_per_prompt)
    pictures = [
        replace(prompt, id=f"{prompt.id}-s{seed}", seed=seed)
        for prompt in prompts
        for seed in seeds
    ]
    several = config.compare is not None
    jobs = {
        label: Job(name, _sampling(config, name), Album(out / slug(label) if several else out))
        for label, name in labels(_models(config)).items()
    }
    times = {label: _make(job, label, pictures) for label, job in jobs.items()}
    sheets = write_sheets(
        {label: job.album for label, job in jobs.items()},
        pictures,
        seeds=seeds,
        side_by_side=several,
        out=out,
    )
    print(_told(times))
    drawn = ", ".join(path.name for path in sheets)
    print(f"{len(pictures) * len(jobs)} images and {drawn} in {out}")
    return 0


def labels(names: Sequence[str]) -> dict[str, str]:
    """Names by short names: of their paths as few of the last parts as tell them apart.

    Raises:
        InputError: two are the same.
    """
    paths = [Path(name).parts for name in names]
    for count in range(1, max(map(len, paths)) + 1):
        short = ["/".join(parts[-count:]) for parts in paths]
        # Folders are called so, and some file systems do not tell cases apart.
        if len({slug(each).casefold() for each in short}) == len(names):
            return dict(zip(short, names, strict=True))
    raise InputError(f"compare=[{','.join(names)}]: two of them have the same name; expected one")


def _models(config: DictConfig) -> list[str]:
    """Their names; all of them are there."""
    if config.model is not None and config.compare is not None:
        raise InputError(
            f"model={config.model} and compare={config.compare}: expected one of them; put the"
            " model into the list of compare="
        )
    if isinstance(config.model, ListConfig):
        raise InputError(f"model={config.model}: expected one; compare= takes a list")
    several = config.compare is not None
    if several and not (isinstance(config.compare, ListConfig) and config.compare):
        raise InputError(
            f"compare={config.compare}: expected a list of models, such as compare=[shapes,runs/a]"
        )
    names = [str(name) for name in (config.compare if several else [config.model or EMBEDDED])]
    for name in names:
        location(name)  # before hours of the first one's pictures
    return names


def _prompts(config: DictConfig) -> list[Prompt]:
    """The prompts; ids name their files."""
    if (config.prompt is None) == (config.prompts is None):
        what = "both given" if config.prompt is not None else "both missing"
        raise InputError(
            f"prompt= and prompts= are {what}; expected one: prompt='a red circle', or a file:"
            " prompts=prompts.txt"
        )
    if config.prompts is not None:
        return FilePrompts(path=str(config.prompts), seed=config.seed).read()
    given = config.prompt if isinstance(config.prompt, ListConfig) else [config.prompt]
    texts = [" ".join(str(text).split()) for text in given]
    if not texts or not all(texts):
        raise InputError(f"prompt={config.prompt}: expected a text, or a list of texts, none empty")
    return from_texts(texts, seed=config.seed)


def _sampling(config: DictConfig, name: str) -> Sampling:
    guidance = guidance_of(name) if config.guidance is None else config.guidance
    values: dict[str, Any] = {key: config[key] for key in _SAMPLING}
    settings = config.scheduler_settings
    if not isinstance(settings, DictConfig | None):
        raise InputError(f"scheduler_settings={settings}: expected {{name: value}}")
    if config.size is not None and (not isinstance(config.size, int) or config.size % _SIZE_UNIT):
        raise InputError(f"size={config.size}: expected a multiple of {_SIZE_UNIT}")
    try:
        return Sampling(
            guidance=_DEFAULT_GUIDANCE if guidance is None else guidance,
            scheduler_settings=plain(settings) if settings is not None else {},
            **values,
        )
    except InputError as error:  # it has its settings under another name elsewhere
        raise InputError(str(error).replace("sampling.", "")) from error


def _make(job: Job, label: str, prompts: Sequence[Prompt]) -> list[float]:
    """Make what is missing, a batch at a time; seconds an image of each batch."""
    pipeline = named_pipeline(job.name)
    made = made_by(job.name, pipeline, job.sampling)
    missing = in_turns(pipeline, job.album.missing(prompts, made))
    size = job.sampling.batch_size
    if not missing:
        return []
    pipeline = job.sampling.prepared(pipeline.to(best_device()))
    seconds = []
    with Progress(len(missing), what=label) as progress:
        for start in range(0, len(missing), size):
            begin, chunk = time.perf_counter(), missing[start : start + size]
            items = list(generate(pipeline, chunk, job.sampling))
            seconds.append((time.perf_counter() - begin) / len(chunk))
            job.album.add(items, made)
            progress.advance(len(chunk))
    return seconds


def _told(times: Mapping[str, Sequence[float]]) -> str:
    """A line a model."""
    width = max(map(len, times))
    found = [
        f"{label.ljust(width)}  "
        + (
            f"{statistics.median(each):.3g} s an image (rough: median of {len(each)}"
            f" batch{'es' * (len(each) > 1)}; `bksdm evaluate` measures)"
            if each
            else "all images were there, made so before"
        )
        for label, each in times.items()
    ]
    return "\n".join(found)
