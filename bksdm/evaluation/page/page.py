"""The page: every section's content, put into the template.

Style, script and pictures are in the page, and its policy lets it load nothing else.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bksdm import __version__
from bksdm.evaluation.page.costs import costs_of
from bksdm.evaluation.page.curves import timestep_plots, training_plots
from bksdm.evaluation.page.evaluated import Evaluated, by_protocol
from bksdm.evaluation.page.models import Model, models_of
from bksdm.evaluation.page.numbers import short
from bksdm.evaluation.page.pairs import Pairs, pairs_that_differ
from bksdm.evaluation.page.quality import quality_plots
from bksdm.evaluation.page.repeat import Repeat, repeat
from bksdm.evaluation.page.routing import RoutingRun, routing_parts
from bksdm.evaluation.page.samples import SampleGrid, sample_grid
from bksdm.evaluation.page.sources import Source
from bksdm.evaluation.page.table import Table, table
from bksdm.evaluation.page.unet import UnetDrawing, unet_drawing
from bksdm.evaluation.page.verdicts import VerdictLine, verdict_lines

_PACKAGE: Final = "bksdm.evaluation.page"


@dataclass(frozen=True)
class ProtocolPart:
    """What the page says of a protocol."""

    evaluated: Evaluated
    verdicts: Sequence[VerdictLine]
    table: Table
    quality: Sequence[Markup]
    timesteps: Sequence[Markup]
    samples: SampleGrid | None
    pairs: Sequence[Pairs]
    repeat: Repeat


@dataclass(frozen=True)
class Drawn:
    """A model's U-Net: the drawing (None if it cannot be drawn) and its size; of a mixture how many
    experts there are in its place, and whether the page has a router's part.
    """

    model: Model
    drawing: UnetDrawing | None
    size: str
    experts: int
    routed: bool


def page(
    sources: Sequence[Source], *, runs: Sequence[RoutingRun] = (), title: str | None = None
) -> str:
    """The HTML of these results, and of these routers; `title` None names the models and runs.

    Raises:
        InputError: what results say of a router cannot be read.
    """
    models = models_of(sources)
    order = list(models.values())
    routings = routing_parts(sources, models, runs)
    alone = [Path(part.name).name for part in routings if part.model is None]
    script = Markup(_file("page.js"))
    environment = Environment(
        loader=PackageLoader(_PACKAGE, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=title or ", ".join(filter(None, [_title(order), *alone])),
        models=order,
        protocols=[_part(each, models) for each in by_protocol(sources, models)],
        curves=training_plots(sources, models),
        drawings=_drawings(sources, models),
        routings=routings,
        style=Markup(_file("page.css")),
        script=script,
        script_hash=_hash(script),
        version=__version__,
    )


def _part(evaluated: Evaluated, models: Mapping[str, Model]) -> ProtocolPart:
    return ProtocolPart(
        evaluated,
        verdict_lines(evaluated, models),
        table(evaluated),
        quality_plots(evaluated),
        timestep_plots(evaluated),
        sample_grid(evaluated),
        pairs_that_differ(evaluated, models),
        repeat(evaluated),
    )


def _title(models: Sequence[Model]) -> str:
    names = [model.label for model in models if not model.baseline]
    baselines = [model.label for model in models if model.baseline]
    return ", ".join(names) + f" against {', '.join(baselines)}" * bool(baselines and names) or (
        ", ".join(baselines)
    )


def _drawings(sources: Sequence[Source], models: Mapping[str, Model]) -> list[Drawn]:
    """One a model, of whichever of its results says most."""
    best: dict[str, Source] = {}
    for source in sources:
        known = best.get(source.result.weights)
        if known is None or (known.result.plan is None and source.result.plan is not None):
            best[source.result.weights] = source
    drawn = []
    for weights, model in models.items():
        result = best[weights].result
        costs = costs_of(result)
        counts = [
            f"{short(value)} {name}"
            for name, value in (("parameters", costs.parameters), ("MACs", costs.macs))
            if value is not None
        ]
        # The config of a mixture is what its experts were cut from: none of them is that.
        drawing = None if result.experts else unet_drawing(model, result)
        routed = result.routing is not None
        drawn.append(Drawn(model, drawing, ", ".join(counts), result.experts, routed))
    return drawn


def _file(name: str) -> str:
    return (files(_PACKAGE) / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """As a content security policy names a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
