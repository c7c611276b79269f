"""bksdm push."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from bksdm import expected
from bksdm.errors import InputError
from bksdm.evaluation.report import table
from bksdm.export.hub import Destination, push
from bksdm.export.narrow import narrow_plan
from bksdm.models.address import SCHEME
from bksdm.training.folder import RunFolder
from bksdm.training.hub import PUSHED
from bksdm.training.publish import CARD, outdated, staged
from bksdm.training.run_card import CardWishes


def run(config: DictConfig) -> int:
    """Send a run to the Hub, or show what would be sent."""
    for name in ("private", "checkpoint", "dry_run"):
        expected.switch(name, config[name])
    # YAML may have taken a tag for a number.
    revision, tag, license_ = (
        None if config[name] is None else str(config[name])
        for name in ("revision", "tag", "license")
    )
    to = Destination(repo=str(config.repo), revision=revision, tag=tag, private=config.private)
    if str(config.run).startswith(SCHEME):
        raise InputError(f"run={config.run}: expected a run that lies here, such as runs/NAME")
    folder = RunFolder(Path(str(config.run)).expanduser())
    folder.settings()
    wishes = CardWishes(
        repository=to.repo,
        revision=to.tag or to.revision,
        license=license_,
        datasets=_texts(config, "datasets"),
        checkpoint=config.checkpoint,
        results=[Path(file).expanduser() for file in _texts(config, "results")],
    )
    if not (folder.student / "model_index.json").exists():
        print(f"no {folder.student} yet: only checkpoint and logs go (`bksdm export` makes it)")
    with staged(folder, wishes) as stage:
        sizes = {name: path.stat().st_size for name, path in stage.files.items()}
        total = f"{len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB"
        if config.dry_run:
            card = folder.path / CARD
            card.write_text((stage.path / CARD).read_text())
            rows = [[name, f"{size / 1e6:,.2f}"] for name, size in sizes.items()]
            print(table(rows, header=["file", "MB"]))
            print(f"\n{total} would go to {to.address}; card: {card}; nothing was sent")
            return 0
        print(f"{total} to {to.address}", flush=True)
        done = push(stage.path, to, message=f"step {stage.step}", outdated=outdated(folder))
    if done.private and not to.private:
        print(f"repo={to.repo} was private, and stays so: its settings on the Hub publish it")
    print(PUSHED.format(step=stage.step, url=done.url, commit=done.commit[:12]))
    if (folder.student / "model_index.json").exists():
        narrow = narrow_plan(folder.student) is not None
        load = "load_pipeline" if narrow else "StableDiffusionPipeline.from_pretrained"
        print(f"load:   {load}({_pretrained(to)})")
    if config.checkpoint:
        print(f"resume: bksdm train resume={to.address}")
    return 0


def _pretrained(to: Destination) -> str:
    at = to.address.revision
    return f'"{to.repo}"' + (f', revision="{at}"' if at else "")


def _texts(config: DictConfig, name: str) -> Sequence[str]:
    given = config[name]
    return tuple(str(each) for each in (given if isinstance(given, ListConfig) else [given]))
