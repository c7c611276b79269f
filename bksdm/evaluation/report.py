"""Results as a table that fits a terminal. A number that was not measured is a dash."""

from collections.abc import Sequence

from bksdm.evaluation.shapes import ShapesResult, Share

_ATTRIBUTES = (
    "one object",
    "two objects",
    "held out",
    "background",
    "count",
    "color",
    "size",
    "shape",
    "relation",
)


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> str:
    """Columns aligned, the first to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def shapes_tables(results: Sequence[ShapesResult]) -> str:
    """What is good, then what it costs."""
    n = results[0].accuracy["all"].n
    quality = table(
        [_quality_row(result) for result in results],
        header=[
            "right, % of prompts",
            "all",
            "95 % interval",
            *_ATTRIBUTES,
            "denoising loss",
            "latent MSE",
        ],
    )
    cost = table(
        [_cost_row(result, results[0]) for result in results],
        header=[
            "cost of one U-Net call",
            "parameters",
            "",
            "MACs",
            "",
            "published count",
            "time / teacher's",
            "quartiles",
        ],
    )
    return (
        f"{quality}\n\n{cost}\n(n = {n} prompts; all = every attribute of the prompt; latent MSE is"
        " to the teacher's images of the same seeds)"
    )


def _quality_row(result: ShapesResult) -> list[str]:
    everything = result.accuracy["all"]
    return [
        result.model,
        _percent(everything),
        f"{100 * everything.low:.1f} - {100 * everything.high:.1f}",
        *(_percent(result.accuracy.get(name)) for name in _ATTRIBUTES),
        f"{result.denoising_loss:.4f}",
        "-" if result.latent_mse is None else f"{result.latent_mse:.3f}",
    ]


def _cost_row(result: ShapesResult, teacher: ShapesResult) -> list[str]:
    cost, whole, time = result.cost, teacher.cost, result.latency
    return [
        result.model,
        f"{cost.parameters:,}",
        _change(cost.parameters, whole.parameters),
        f"{cost.macs:,}",
        _change(cost.macs, whole.macs),
        f"{cost.macs_published:,}",
        "-" if time is None else f"{time.median:.2f}",
        "-" if time is None else f"{time.low:.2f} - {time.high:.2f}",
    ]


def _percent(share: Share | None) -> str:
    return "-" if share is None or share.n == 0 else f"{100 * share.value:.1f}"


def _change(value: int, whole: int) -> str:
    return "" if value == whole else f"{100 * (value / whole - 1):+.1f} %"
