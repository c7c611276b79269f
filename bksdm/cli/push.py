"""bksdm push."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from bksdm import expected
from bksdm.errors import InputError
from bksdm.evaluation.report import table
from bksdm.export.hub import Destination, push
from bksdm.training.folder import RunFolder
from bksdm.training.publish import CARD, staged
from bksdm.training.run_card import CardWishes


def run(config: DictConfig) -> int:
    """Send a run to the Hub, or show what would be sent."""
    for name in ("private", "checkpoint", "dry_run"):
        expected.switch(name, config[name])
    to = Destination(
        repo=str(config.repo), revision=config.revision, tag=config.tag, private=config.private
    )
    folder = RunFolder(Path(str(config.run)).expanduser())
    folder.settings()
    if not folder.checkpoint.is_file():
        raise InputError(f"run={config.run}: no {folder.checkpoint}; nothing is trained yet")
    wishes = CardWishes(
        repository=to.repo,
        revision=to.tag or to.revision,
        license=config.license,
        datasets=_texts(config, "datasets"),
        checkpoint=config.checkpoint,
        results=[Path(file).expanduser() for file in _texts(config, "results")],
    )
    with staged(folder, wishes) as stage:
        sizes = [
            (path.relative_to(stage).as_posix(), path.stat().st_size)
            for path in sorted(stage.rglob("*"))
            if path.is_file()
        ]
        total = f"{len(sizes)} files, {sum(size for _, size in sizes) / 1e6:,.1f} MB"
        if config.dry_run:
            card = folder.path / CARD
            card.write_text((stage / CARD).read_text())
            rows = [[name, f"{size / 1e6:,.2f}"] for name, size in sizes]
            print(table(rows, header=["file", "MB"]))
            print(f"\n{total} would go to {to.address}; card: {card}; nothing was sent")
            return 0
        print(f"{total} to {to.address}", flush=True)
        done = push(stage, to, message=f"bksdm push of {folder.path.name}")
    print(f"pushed: {done.url} (commit {done.commit[:12]})")
    print(f"load:   StableDiffusionPipeline.from_pretrained({_pretrained(to)})")
    if config.checkpoint:
        print(f"resume: bksdm train resume={to.address}")
    return 0


def _pretrained(to: Destination) -> str:
    at = to.address.revision
    return f'"{to.repo}"' + (f', revision="{at}"' if at else "")


def _texts(config: DictConfig, name: str) -> Sequence[str]:
    given = config[name]
    if not isinstance(given, ListConfig):
        raise InputError(f"{name}={given}: expected a list, such as {name}=[a,b]")
    return tuple(str(each) for each in given)
