"""Distribution measures: one forward of a network for each batch, for all metrics on it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bksdm.errors import InputError
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measure import Pictures, Subject
from bksdm.evaluation.measures.feature_set import FeatureSet, FeatureSum, accumulator, feature_sets
from bksdm.evaluation.measures.features import Extractor, FeatureNetwork
from bksdm.evaluation.reference import (
    BASELINE,
    REMEDY,
    About,
    Reference,
    ReferencePictures,
    ReferenceSetting,
    about,
    check_reference,
    read_reference,
    write_reference,
)
from bksdm.evaluation.score import Score


class FeatureMetric(Protocol):
    """Settings of a metric on features; a frozen dataclass. It is a pure function of two sets."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its scores."""

    @property
    def layer(self) -> str:
        """Of the network."""

    @property
    def reference(self) -> ReferenceSetting | None:
        """What the model's pictures are compared with; None if with nothing."""

    @property
    def needs_rows(self) -> bool:
        """Whether it needs all vectors, of the model and of the reference."""

    def scores(self, model: FeatureSet, reference: FeatureSet | None) -> Sequence[Score]:
        """Scores of the model's features, beside the reference's."""


@dataclass(frozen=True, kw_only=True)
class OnFeatures:
    """Metrics on the features of one network.

    Attributes:
        network: which.
        metrics: on its features.
    """

    network: FeatureNetwork
    metrics: Sequence[FeatureMetric]

    def __post_init__(self) -> None:
        if not isinstance(self.metrics, list | tuple) or not self.metrics:
            raise InputError(f"OnFeatures: metrics={self.metrics}; expected a list, at least one")

    @property
    def names(self) -> tuple[str, ...]:
        """Of its scores."""
        return tuple(name for metric in self.metrics for name in metric.names)

    def begin(self, subject: Subject) -> "_OnFeatures":
        """Load the network and the reference sets.

        Raises:
            InputError: a file is missing, or a reference was made otherwise.
        """
        extractor = self.network.load(subject.device)
        for metric in self.metrics:
            _check_layer(metric, extractor)
        references = {
            setting: self._load(setting, extractor, subject)
            for setting in self._references()
            if setting != BASELINE
        }
        return _OnFeatures(self, extractor, references, subject.device)

    def write_references(
        self, batches: Iterable[Tensor], *, device: torch.device, keeping: Keeping, source: str
    ) -> list[Path]:
        """Make all reference files that the metrics name, in one pass.

        Args:
            batches: uint8 pixels (N, 3, H, W) of reference pictures, kept as the protocol says.
            device: where the network goes.
            keeping: the protocol's.
            source: where the pictures come from, in words.

        Returns:
            The files, as the metrics name them.

        Raises:
            InputError: one file is to hold two layers, or the network cannot be had.
        """
        extractor = self.network.load(device)
        files = [s for s in self._references() if isinstance(s, str) and s != BASELINE]
        rows = [self._rows(setting) for setting in files]
        wanted = {
            layer: any(each.get(layer, False) for each in rows)
            for layer in dict.fromkeys(layer for each in rows for layer in each)
        }
        found = feature_sets(batches, extractor, layers=wanted, device=device) if wanted else {}
        for setting, layers in zip(files, rows, strict=True):
            layer = _only(layers, setting)
            features = replace(found[layer], rows=found[layer].rows if layers[layer] else None)
            told = about(extractor, layer=layer, keeping=keeping, source=source)
            write_reference(Reference(features, told), Path(setting))
        return [Path(setting) for setting in files]

    def _load(
        self, setting: ReferenceSetting, extractor: Extractor, subject: Subject
    ) -> dict[str, Reference]:
        layers = self._rows(setting)
        if isinstance(setting, str):
            return _of_file(setting, layers, extractor, subject.keeping)
        wanted = tuple(layers.items())
        return _of_pictures(setting, self.network, wanted, subject.device, subject.keeping)

    def _references(self) -> list[ReferenceSetting]:
        settings = (metric.reference for metric in self.metrics)
        return list(dict.fromkeys(setting for setting in settings if setting is not None))

    def _rows(self, setting: ReferenceSetting | None) -> dict[str, bool]:
        """For each layer that metrics with this reference use, whether one needs the vectors."""
        users = [metric for metric in self.metrics if metric.reference == setting]
        return {
            layer: any(metric.needs_rows for metric in users if metric.layer == layer)
            for layer in dict.fromkeys(metric.layer for metric in users)
        }


class _OnFeatures:
    def __init__(
        self,
        settings: OnFeatures,
        extractor: Extractor,
        references: Mapping[ReferenceSetting, Mapping[str, Reference]],
        device: torch.device,
    ) -> None:
        self.metrics = settings.metrics
        self.extractor = extractor
        self.references = references
        self.model = _sums(settings.metrics, extractor, device)
        beside = [metric for metric in settings.metrics if metric.reference == BASELINE]
        self.baseline = _sums(beside, extractor, device)

    def update(self, pictures: Pictures) -> None:
        """Take in N pictures, and the baseline's if a metric is beside it and this is another."""
        _take(self.model, self.extractor(pictures.pixels), pictures)
        theirs = pictures.baseline
        if self.baseline and theirs is not None and theirs.pixels is not pictures.pixels:
            _take(self.baseline, self.extractor(theirs.pixels), pictures)

    def scores(self) -> Sequence[Score]:
        """Of all metrics; those beside a baseline are left out without one, and of itself."""
        model = {layer: total.feature_set() for layer, total in self.model.items()}
        baseline = {layer: total.feature_set() for layer, total in self.baseline.items()}
        return [
            replace(score, details=self._details(metric, told) | dict(score.details))
            for metric in self.metrics
            for reference, told in self._reference_of(metric, baseline)
            for score in metric.scores(model[metric.layer], reference)
        ]

    def _reference_of(
        self, metric: FeatureMetric, baseline: Mapping[str, FeatureSet]
    ) -> list[tuple[FeatureSet | None, About | str | None]]:
        if metric.reference is None:
            return [(None, None)]
        if metric.reference == BASELINE:
            found = baseline[metric.layer]
            return [(found, BASELINE)] if found.n else []
        reference = self.references[metric.reference][metric.layer]
        return [(reference.features, reference.about)]

    def _details(self, metric: FeatureMetric, told: About | str | None) -> dict[str, Any]:
        details: dict[str, Any] = {"network": asdict(self.extractor.identity)}
        if told is None:
            return details
        file = metric.reference if isinstance(metric.reference, str) else None
        return details | {
            "reference": asdict(told) | {"file": file} if isinstance(told, About) else told
        }


def _sums(
    metrics: Iterable[FeatureMetric], extractor: Extractor, device: torch.device
) -> dict[str, FeatureSum]:
    rows: dict[str, bool] = {}
    for metric in metrics:
        rows[metric.layer] = rows.get(metric.layer, False) or metric.needs_rows
    return {
        layer: accumulator(extractor.dims[layer], rows=keep, device=device)
        for layer, keep in rows.items()
    }


def _take(sums: Mapping[str, FeatureSum], found: Mapping[str, Tensor], pictures: Pictures) -> None:
    ids = [prompt.id for prompt in pictures.prompts]
    for layer, total in sums.items():
        total.update(found[layer], ids)


@lru_cache(maxsize=8)
def _of_pictures(
    pictures: ReferencePictures,
    network: FeatureNetwork,
    layers: tuple[tuple[str, bool], ...],
    device: torch.device,
    keeping: Keeping,
) -> dict[str, Reference]:
    """References of pictures that are made here, by layer. Kept: a sweep asks for the same ones
    before each of its models.
    """
    extractor = network.load(device)
    found = feature_sets(pictures.batches(keeping), extractor, layers=dict(layers), device=device)
    return {
        layer: Reference(
            features, about(extractor, layer=layer, keeping=keeping, source=str(pictures))
        )
        for layer, features in found.items()
    }


def _of_file(
    setting: str, layers: Mapping[str, bool], extractor: Extractor, keeping: Keeping
) -> dict[str, Reference]:
    """A reference that is read and checked."""
    layer = _only(layers, setting)
    reference = read_reference(Path(setting))
    check_reference(reference, setting, extractor=extractor, layer=layer, keeping=keeping)
    if layers[layer] and reference.features.rows is None:
        raise InputError(
            f"reference {setting}: it has mean and covariance only, and a metric (KID, CMMD) needs"
            f" every picture's features; make it anew: {REMEDY}"
        )
    return {layer: reference}


def _only(layers: Mapping[str, bool], setting: ReferenceSetting) -> str:
    if len(layers) != 1:
        raise InputError(
            f"reference {setting}: metrics take it for the layers {', '.join(layers)}; expected a"
            " file for each"
        )
    return next(iter(layers))


def _check_layer(metric: FeatureMetric, extractor: Extractor) -> None:
    if metric.layer not in extractor.dims:
        raise InputError(
            f"{type(metric).__name__}.layer={metric.layer}: {extractor.identity.name} has"
            f" {', '.join(extractor.dims)}"
        )
