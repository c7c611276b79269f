"""bksdm report."""

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from bksdm.atomic import replacing
from bksdm.cli.config import folder
from bksdm.errors import InputError
from bksdm.evaluation.page.page import page
from bksdm.evaluation.page.sources import sources


def run(config: DictConfig) -> int:
    """Write one page of the results that are named."""
    named = config.model
    names = [str(name) for name in named] if isinstance(named, ListConfig) else [str(named)]
    if not names:
        raise InputError("model=[]: expected runs, folders or results files to report on")
    out = Path(str(config.out)).expanduser()
    if out.is_dir():
        raise InputError(f"out={out} is a folder; expected a file, e.g. out={out / 'report.html'}")
    found = sources(names, evaluations=folder(config, "evaluations"))
    html = page(found, title=None if config.title is None else str(config.title))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    models = len({source.result.weights for source in found})
    print(
        f"report of {models} model{'s' * (models > 1)}: {out}"
        f" ({out.stat().st_size / 1e6:.1f} MB, loads nothing from anywhere)"
    )
    return 0
