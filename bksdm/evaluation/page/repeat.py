"""Everything that repeats an evaluation, as names and values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bksdm.evaluation.page.curves import BY_TIMESTEP
from bksdm.evaluation.page.evaluated import Evaluated
from bksdm.evaluation.page.numbers import DASH, whole
from bksdm.evaluation.page.sources import Source

_LONGEST: Final = 400  # letters of a value
_TIMED: Final = ("machine", "settings", "dtype")  # how times were taken
_COUNTS: Final = {
    "parameters": "U-Net parameters",
    "macs": "MACs of a U-Net call",
    "macs_published": "the same as published",
}

# Of a protocol: what its pictures depend on.
_MADE_SO: Final = ("prompts_sha256", "settings.sampling.", "settings.keeping.")
_MAY_DIFFER: Final = ("settings.sampling.batch_size",)

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Repeat:
    """What is told of a protocol.

    Attributes:
        shared: settings, versions and hardware that all models have in common.
        models: each model's own, by label.
        unlike: settings that differ among the models, so that their scores do not compare.
    """

    shared: Rows
    models: Sequence[tuple[str, Rows]]
    unlike: Sequence[str]


def repeat(evaluated: Evaluated) -> Repeat:
    """What all models of the protocol share, then each model's own."""
    every = [dict(_rows(source)) for _, source in evaluated.rows]
    shared = {
        name: value
        for name, value in every[0].items()
        if len(every) > 1 and all(each.get(name) == value for each in every)
    }
    return Repeat(
        tuple(shared.items()),
        tuple(
            (model.label, tuple((name, value) for name, value in own.items() if name not in shared))
            for (model, _), own in zip(evaluated.rows, every, strict=True)
        ),
        _unlike([dict(flat(source.result.protocol)) for _, source in evaluated.rows]),
    )


def _unlike(protocols: Sequence[Mapping[str, str]]) -> list[str]:
    """Of prompts and pictures; a measure more or less changes no other score."""
    names = dict.fromkeys(name for each in protocols for name in each if name.startswith(_MADE_SO))
    return [
        name.removeprefix("settings.")
        for name in names
        if name not in _MAY_DIFFER and len({each.get(name) for each in protocols}) > 1
    ]


def _rows(source: Source) -> Rows:
    result = source.result
    rows = [*flat(result.protocol), ("model", result.name), ("weights (sha256)", result.weights)]
    rows += flat(result.environment)
    unet = ((result.cost or {}).get("unet") or {}).get("total") or {}
    rows += [
        (f"U-Net {name.replace('_', ' ').replace('macs', 'MACs')}", whole(value))
        for name, value in unet.items()
    ]
    timing = {name: (result.speed or {}).get(name) for name in _TIMED}
    rows += flat({name: value for name, value in timing.items() if value is not None}, "timing.")
    for score in result.scores:
        details = {name: value for name, value in score.details.items() if name != BY_TIMESTEP}
        how = f", interval: {score.interval}" if score.interval else ""
        rows.append((score.name, f"n = {score.n}{how}"))
        rows += [(f"{score.name}: {name}", value) for name, value in flat(details)]
    return rows


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and values in words."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
            rows += flat({str(i): each for i, each in enumerate(value)}, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _words(value)))
    return rows


def _words(value: Any) -> str:
    if value is None:
        return DASH
    words = ", ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)
    if len(words) > _LONGEST:
        return f"{words[:_LONGEST]}... ({len(words):,} letters, all in results.json)"
    return words
