"""Reference files of all networks of a protocol, in one pass over the photographs.

Features lie in parts beside the files until all are there, so that a killed pass goes on where it
was. Knows nothing of where photographs come from.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bksdm.atomic import replacing
from bksdm.evaluation.coco.photographs import Kept
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measures.features import Extractor
from bksdm.evaluation.measures.on_features import OnFeatures
from bksdm.evaluation.reference import BASELINE

PARTS: Final = "parts"
PART: Final = 1024  # photographs a part: what a killed pass does again, at most
_KEY: Final = "key"
_DIGESTS: Final = "digests"

Batches = Callable[[Sequence[str]], Iterator[Kept]]


@dataclass(frozen=True)
class _Replayed:
    """A network whose features are known: `pixels` are numbers of photographs, int64 (N,)."""

    extractor: Extractor
    features: Mapping[str, Tensor]

    def load(self, device: torch.device) -> Extractor:
        """The network that looks features up."""
        del device
        return replace(self.extractor, forward=self._look_up)

    def _look_up(self, numbers: Tensor) -> Mapping[str, Tensor]:
        return {layer: rows[numbers] for layer, rows in self.features.items()}


def reference_files(measure: OnFeatures) -> list[Path]:
    """The files that its metrics compare with."""
    named = [metric.reference for metric in measure.metrics]
    files = [name for name in named if isinstance(name, str) and name != BASELINE]
    return [Path(name) for name in dict.fromkeys(files)]


def in_folder(measure: OnFeatures, folder: Path) -> OnFeatures:
    """The same measure with its reference files in another folder."""
    metrics = [
        metric
        if metric.reference == BASELINE or not isinstance(metric.reference, str)
        else replace(metric, reference=str(folder / Path(metric.reference).name))  # type: ignore[type-var]
        for metric in measure.metrics
    ]
    return replace(measure, metrics=metrics)


def write_all(
    measures: Sequence[OnFeatures],
    names: Sequence[str],
    batches: Batches,
    *,
    keeping: Keeping,
    folder: Path,
    source: str,
    device: torch.device,
    advance: Callable[[int], object] = lambda count: None,
) -> list[str]:
    """Write the reference files of these measures.

    Args:
        measures: each with a network of its own.
        names: of all photographs.
        batches: makes the kept photographs of some names, in their order, in batches whose size
            divides `PART`.
        keeping: what `batches` does to them.
        folder: parts lie in `parts/` of it, and go when all is done.
        source: where the photographs come from, in words.
        device: where networks go.
        advance: is told how many photographs are done, those of an earlier pass included.

    Returns:
        sha256 of each original file, in the order of `names`.

    Raises:
        InputError: a photograph cannot be read, or a network cannot be had.
    """
    extractors = [measure.network.load(device) for measure in measures]
    key = _digest([[each.identity.key for each in extractors], asdict(keeping)])
    parts = [
        _Part(folder / PARTS / f"{start // PART:05d}.safetensors", key, names[start : start + PART])
        for start in range(0, len(names), PART)
    ]
    missing = [part for part in parts if not part.done]
    advance(len(names) - sum(len(part.names) for part in missing))
    stream = batches([name for part in missing for name in part.names])
    for part in missing:
        _write_part(part, extractors, stream, advance=advance)
    for number, (measure, extractor) in enumerate(zip(measures, extractors, strict=True)):
        layers = {layer: _joined(parts, f"{number}.{layer}") for layer in extractor.dims}
        known = replace(measure, network=_Replayed(extractor, layers))
        numbers = torch.split(torch.arange(len(names)), PART)
        known.write_references(numbers, device=torch.device("cpu"), keeping=keeping, source=source)
    digests = [bytes(row).hex() for row in _joined(parts, _DIGESTS).numpy()]
    shutil.rmtree(folder / PARTS)
    return digests


@dataclass(frozen=True)
class _Part:
    """Features of some photographs: file, what they depend on, and whose they are."""

    path: Path
    made: str
    names: Sequence[str]

    @property
    def key(self) -> str:
        return f"{self.made} {_digest(self.names)}"

    @property
    def done(self) -> bool:
        try:
            with safe_open(self.path, framework="pt") as file:
                return (file.metadata() or {}).get(_KEY) == self.key
        except (OSError, SafetensorError):
            return False  # not there, or cut off by a crash of the machine


def _write_part(
    part: _Part,
    extractors: Sequence[Extractor],
    stream: Iterator[Kept],
    *,
    advance: Callable[[int], object],
) -> None:
    found: dict[str, list[Tensor]] = {}
    done = 0
    while done < len(part.names):
        batch = next(stream)
        found.setdefault(_DIGESTS, []).append(batch.digests)
        for number, extractor in enumerate(extractors):
            for layer, rows in extractor(batch.pixels).items():
                found.setdefault(f"{number}.{layer}", []).append(rows.float().cpu())
        done += len(batch.pixels)
        advance(len(batch.pixels))
    assert done == len(part.names), "batches must not cross parts"
    tensors = {name: torch.cat(rows).contiguous() for name, rows in found.items()}
    part.path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(part.path) as temporary:
        save_file(tensors, temporary, {_KEY: part.key})


def _joined(parts: Iterable[_Part], name: str) -> Tensor:
    rows = []
    for part in parts:
        with safe_open(part.path, framework="pt") as file:
            rows.append(file.get_tensor(name))
    return torch.cat(rows)


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
