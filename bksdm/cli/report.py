"""bksdm report."""

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from bksdm.atomic import replacing
from bksdm.cli.config import folder
from bksdm.errors import InputError
from bksdm.evaluation.page.page import page
from bksdm.evaluation.page.routing import routing_runs
from bksdm.evaluation.page.sources import sources


def run(config: DictConfig) -> int:
    """Write one page of the results and the routers that are named."""
    named = config.model
    names = [str(name) for name in named] if isinstance(named, ListConfig) else [str(named)]
    if not names:
        raise InputError("model=[]: expected runs, folders or results files to report on")
    out = Path(str(config.out)).expanduser()
    if out.is_dir():
        raise InputError(f"out={out} is a folder; expected a file, e.g. out={out / 'report.html'}")
    runs, others = routing_runs(names)
    found = sources(others, evaluations=folder(config, "evaluations"))
    html = page(found, runs=runs, title=None if config.title is None else str(config.title))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    models = len({source.result.weights for source in found})
    counts = ((models, "model"), (len(runs), "router"))
    of = " and ".join(f"{count} {what}{'s' * (count > 1)}" for count, what in counts if count)
    print(f"report of {of}: {out} ({out.stat().st_size / 1e6:.1f} MB, loads nothing from anywhere)")
    return 0
