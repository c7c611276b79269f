"""Results as a table that fits a terminal. A number that was not measured is a dash."""

from collections.abc import Sequence

from bksdm.evaluation.shapes import ShapesResult, Share

_KINDS = ("one object", "two objects", "held out")
_PARTS = ("background", "count", "color", "size", "shape", "relation")


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
    """What is good, in two tables, then what it costs."""
    accuracy = results[0].accuracy
    n = accuracy["all"].n
    unseen = f", held out {accuracy['held out'].n}" if "held out" in accuracy else ""
    models = [result.model for result in results]
    tables = [
        table(
            [_whole_row(result) for result in results],
            header=["every attribute right, %", "all", "95 % interval", "of teacher's", *_KINDS],
        ),
        table(
            [
                [model, *_shares(result, _PARTS)]
                for model, result in zip(models, results, strict=True)
            ],
            header=["each attribute right, %", *_PARTS],
        ),
        table(
            [_cost_row(result, results[0]) for result in results],
            header=[
                "U-Net",
                "parameters",
                "",
                "MACs",
                "",
                "time / teacher's",
                "loss",
                "latent MSE",
            ],
        ),
    ]
    notes = (
        f"n = {n} prompts{unseen}; of teacher's: paired bootstrap over prompts; MACs: with\n"
        "attention products; time: median of one call (quartiles in the results);\n"
        "loss: denoising; latent MSE: to the teacher's, same seeds"
    )
    return "\n\n".join([*tables, notes])


def _whole_row(result: ShapesResult) -> list[str]:
    everything, ratio = result.accuracy["all"], result.of_teacher
    return [
        result.model,
        _percent(everything),
        f"{100 * everything.low:.1f} - {100 * everything.high:.1f}",
        "-" if ratio is None else f"{ratio.value:.0%} ({ratio.low:.0%} - {ratio.high:.0%})",
        *_shares(result, _KINDS),
    ]


def _shares(result: ShapesResult, names: Sequence[str]) -> list[str]:
    return [_percent(result.accuracy.get(name)) for name in names]


def _cost_row(result: ShapesResult, teacher: ShapesResult) -> list[str]:
    cost, whole, time = result.cost, teacher.cost, result.latency
    return [
        result.model,
        f"{cost.parameters:,}",
        _change(cost.parameters, whole.parameters),
        f"{cost.macs:,}",
        _change(cost.macs, whole.macs),
        "-" if time is None else f"{time.median:.2f}",
        f"{result.denoising_loss:.4f}",
        "-" if result.latent_mse is None else f"{result.latent_mse:.3f}",
    ]


def _percent(share: Share | None) -> str:
    return "-" if share is None or share.n == 0 else f"{100 * share.value:.1f}"


def _change(value: int, whole: int) -> str:
    return "" if value == whole else f"{100 * (value / whole - 1):+.1f} %"
