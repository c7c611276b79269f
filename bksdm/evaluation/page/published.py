"""Published values of the protocols that have any; `published.yaml` holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class PublishedModel:
    """A row of somebody's table.

    Attributes:
        name: as published.
        label: shorter, where its place says whose it is.
        scores: by their published names.
        parameters: of the U-Net; None where not known.
        macs_published: of its call as BK-SDM counts; None where not known.
    """

    name: str
    label: str
    scores: Mapping[str, float]
    parameters: float | None = None
    macs_published: float | None = None


@dataclass(frozen=True)
class Noise:
    """Between what the same model scores over repeats of the same protocol, and who says so."""

    source: str
    scores: str


@dataclass(frozen=True)
class Published:
    """What was published under one protocol.

    Attributes:
        title: the protocol in words.
        source: who says so.
        url: where.
        counted: where parameters and MACs are from.
        names: what our protocols may call a published score.
        models: the rows.
        noise: None where nobody has published it.
    """

    title: str
    source: str
    url: str
    counted: str
    names: Mapping[str, tuple[str, ...]]
    models: tuple[PublishedModel, ...]
    noise: Noise | None

    def name(self, score: str) -> str | None:
        """The published name of one of our scores; None where it has none."""
        return next((name for name, ours in self.names.items() if score in ours), None)


def published(protocol: str) -> Published | None:
    """What was published under the protocol of that name."""
    values = _all().get(protocol)
    if values is None:
        return None
    noise = values.get("noise")
    return Published(
        title=values["title"],
        source=values["source"],
        url=values["url"],
        counted=values["counted"],
        names={name: tuple(ours) for name, ours in values["names"].items()},
        models=tuple(PublishedModel(**model) for model in values["models"]),
        noise=None if noise is None else Noise(**noise),
    )


@cache
def _all() -> dict[str, Any]:
    text = (files(__package__) / "published.yaml").read_text()
    values: dict[str, Any] = yaml.safe_load(text)["protocols"]
    return values
