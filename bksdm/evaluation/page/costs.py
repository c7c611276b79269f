"""What a model costs, out of the plain values of its results.

Reads `cost.image_cost.ImageCost` and `cost.latency.ModelLatency` as they stand in
`results.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bksdm.evaluation.cost.timing import Quartiles
from bksdm.evaluation.results import ModelResult

_GUIDED: Final = 2  # rows of a U-Net call for one image with guidance, where it is not told


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Each None where it was not measured.

    Attributes:
        parameters: of the U-Net.
        macs: of one U-Net call on one row, with attention products.
        macs_published: the same as BK-SDM counts.
        call_seconds: of one U-Net call for one image.
        call_ratio: of that to the time of `timed_beside`, in the same run.
        image_seconds: of one image, prompt to pixels.
        image_ratio: of that to the time of `timed_beside`.
        memory: bytes at the most, for one image.
        throughput: most images a second.
        throughput_batch: at that batch size.
        timed_beside: name of the model that ratios of time are to; with baseline=null the first.
    """

    parameters: float | None = None
    macs: float | None = None
    macs_published: float | None = None
    call_seconds: Quartiles | None = None
    call_ratio: Quartiles | None = None
    image_seconds: Quartiles | None = None
    image_ratio: Quartiles | None = None
    memory: float | None = None
    throughput: float | None = None
    throughput_batch: int | None = None
    timed_beside: str | None = None


def costs_of(result: ModelResult) -> Costs:
    """The costs of a model."""
    unet: Mapping[str, Any] = ((result.cost or {}).get("unet") or {}).get("total") or {}
    speed = result.speed or {}
    rows = (result.cost or {}).get("rows", _GUIDED)
    call = _of_batch(speed.get("unet_calls") or (), rows)
    images = speed.get("images") or ()
    image = _of_batch(images, 1)
    fastest: Mapping[str, Any] = max(
        (each for each in images if each.get("per_second") is not None),
        key=lambda each: each["per_second"],
        default={},
    )
    return Costs(
        parameters=unet.get("parameters"),
        macs=unet.get("macs"),
        macs_published=unet.get("macs_published"),
        call_seconds=_spread(call.get("seconds")),
        call_ratio=_spread(call.get("ratio")),
        image_seconds=_spread(image.get("seconds")),
        image_ratio=_spread(image.get("ratio")),
        memory=image.get("peak_bytes"),
        throughput=fastest.get("per_second"),
        throughput_batch=fastest.get("batch"),
        timed_beside=speed.get("baseline"),
    )


def _of_batch(measured: Sequence[Mapping[str, Any]], batch: int) -> Mapping[str, Any]:
    return next((each for each in measured if each.get("batch") == batch), {})


def _spread(values: Mapping[str, float] | None) -> Quartiles | None:
    return None if values is None else Quartiles(values["median"], values["low"], values["high"])
