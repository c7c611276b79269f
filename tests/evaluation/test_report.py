import math
from dataclasses import replace
from pathlib import Path

import pytest

from bksdm.evaluation.comparison import Comparison, Interval, Verdict
from bksdm.evaluation.evaluate import Baseline, against
from bksdm.evaluation.gallery import Gallery
from bksdm.evaluation.generate import Sampling
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measures.denoising import ShapesDenoisingLoss
from bksdm.evaluation.prompts import ShapesPrompts
from bksdm.evaluation.protocol import Protocol
from bksdm.evaluation.report import cost_table, number, score_table, short_names, verdicts
from bksdm.evaluation.results import Against, ModelResult
from bksdm.evaluation.score import Better, Items, Score

LONG = "/scratch/somebody/experiments/2026/students"


def quartiles(value: float) -> dict[str, float]:
    return {"median": value, "low": 0.9 * value, "high": 1.1 * value}


def result(name: str, *, parts: int = 1000) -> ModelResult:
    total = {"parameters": 10**6 * parts, "macs": 10**9 * parts, "macs_published": 10**8 * parts}
    calls = [
        {"batch": 1, "seconds": quartiles(9.0), "ratio": quartiles(9.0)},
        {"batch": 2, "seconds": quartiles(0.1), "ratio": quartiles(0.5)},
    ]
    return ModelResult(
        name=name,
        weights="abc",
        protocol={"name": "shapes"},
        scores=(
            Score(
                name="all right",
                value=0.5,
                low=0.4,
                high=0.612,
                better=Better.HIGHER,
                n=512,
                percent=True,
            ),
            Score(
                name="all right: held out",
                value=0.25,
                low=0.2,
                high=0.3,
                better=Better.HIGHER,
                n=128,
                percent=True,
            ),
            Score(name="loss", value=0.123456, low=0.1, high=0.2, better=Better.LOWER, n=512),
            Score(name="FID", value=13.05, better=Better.LOWER, n=30000),
        ),
        cost={"unet": {"total": total}, "rows": 2},
        speed={"unet_calls": calls},
    )


def comparison(verdict: Verdict) -> Comparison:
    return Comparison(
        score="all right",
        n=512,
        difference=Interval(-0.1, -0.2, 0.05),
        ratio=Interval(0.9, 0.8, 1.1),
        wins=0.25,
        losses=0.5,
        verdict=verdict,
    )


def beside(one: ModelResult, baseline: str, found: tuple[Comparison, ...]) -> ModelResult:
    against = Against(name=baseline, weights="x", deciding="all right", comparisons=found)
    return replace(one, against=(against,))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("width", [80, 132])
def test_tables_fit_the_terminal_whatever_the_models_are_called(count: int, width: int) -> None:
    names = ["shapes", *(f"{LONG}/small_no_caption_dropout-{i}" for i in range(count - 1))]
    results = [beside(result(name), names[0], (comparison(Verdict.OPEN),)) for name in names]
    for show in (score_table, cost_table, verdicts):
        lines = show(results, width=width).splitlines()
        assert max(map(len, lines)) <= width
    text = score_table(results, width=width)
    for i in range(count - 1):
        assert text.count(f"small_no_caption_dropout-{i}") == 1
    assert LONG not in text


def test_a_wide_terminal_has_one_table() -> None:
    results = [result(name) for name in "abc"]
    assert "\n\n" in score_table(results, width=60)
    assert "\n\n" not in score_table(results, width=200)
    assert score_table(results, width=10).count("n\n") == 3  # a column at least


def test_a_score_has_its_interval_and_unit() -> None:
    lines = score_table([result("a")]).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "shapes",
        "-" * 13,
        "all right, %",
        "",
        "loss",
        "FID",
    ]
    assert lines[2].split() == ["all", "right,", "%", "50.0", "[40.0,", "61.2]", "512"]
    assert lines[3].startswith("  held out, %")
    assert "0.1235 [0.1000, 0.2000]" in lines[4]
    assert lines[5].split() == ["FID", "13.05", "30000"]


def test_a_verdict_that_is_missing_says_why() -> None:
    def scored(values: list[float]) -> Score:
        items = Items(tuple(map(str, range(len(values)))), tuple(values))
        return Score(
            name="denoising loss", value=1.0, better=Better.LOWER, n=len(values), items=items
        )

    ours, theirs = [1.0] * 30, [2.0] * 30
    ours[3] = ours[8] = math.nan
    protocol = Protocol(
        name="p",
        prompts=ShapesPrompts(count=2, held_out=0, seed=0),
        sampling=Sampling(steps=1, guidance=1.0, batch_size=1),
        keeping=Keeping(),
        measures={"loss": ShapesDenoisingLoss(count=30)},
        decide="denoising loss",
    )
    gallery = Gallery(Path("a"), Keeping(), latents=False)
    baseline = Baseline("a", "x", gallery, [scored(theirs)])
    found = against([scored(ours)], baseline, protocol)
    assert found.comparisons == ()
    text = verdicts([replace(result("b"), against=(found,))])
    assert text == "b: no verdict against a: denoising loss is not a number for 2 of its items"


def test_a_deviation_is_no_interval() -> None:
    kid = Score(name="KID", value=0.0123, deviation=0.0007, better=Better.LOWER, n=5000)
    line = score_table([replace(result("a"), scores=(kid,))]).splitlines()[2]
    assert line.split() == ["KID", "0.0123", "(0.000700)", "5000"]


def test_what_a_model_was_not_asked_is_a_dash() -> None:
    baseline = replace(result("a"), scores=result("a").scores[:2])
    broken = replace(
        result("b"),
        scores=(
            *result("b").scores[:2],
            Score(name="loss", value=math.nan, low=math.nan, better=Better.LOWER, n=3),
        ),
    )
    line = next(line for line in score_table([baseline, broken]).splitlines() if "loss" in line)
    assert line.split() == ["loss", "-", "-", "3"]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["shapes"], ["shapes"]),
        (["shapes", "/a/b/c", "/a/b/d"], ["shapes", "c", "d"]),
        (["x/small", "y/small"], ["x/small", "y/small"]),
        (["/r/x/small", "/r/y/small", "/r/y/tiny"], ["x/small", "y/small", "y/tiny"]),
        (["a/b/", "c"], ["b", "c"]),
        (["CompVis/stable-diffusion-v1-4"], ["stable-diffusion-v1-4"]),
        (["x", "/x"], ["x", "/x"]),
        ([], []),
    ],
)
def test_names_are_as_short_as_tells_them_apart(names: list[str], short: list[str]) -> None:
    assert short_names(names) == dict(zip(names, short, strict=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12345.6, "12346"),
        (123.456, "123.5"),
        (13.05, "13.05"),
        (0.12345, "0.1235"),
        (0.0012345, "0.001234"),
        (-0.0012345, "-0.001234"),
        (1.2e-4, "0.000120"),
        (1.23e-8, "1.2e-08"),
        (math.inf, "inf"),
    ],
)
def test_numbers_have_about_four_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.BETTER, "small: better than shapes with n = 512 prompts"),
        (Verdict.WORSE, "small: worse than shapes with n = 512 prompts"),
        (Verdict.OPEN, "small: not distinguishable from shapes with n = 512 prompts"),
        (Verdict.DIFFERENT, "small: different from shapes with n = 512 prompts"),
    ],
)
def test_a_verdict_says_what_it_stands_on(verdict: Verdict, words: str) -> None:
    text = verdicts(
        [result("shapes"), beside(result(f"{LONG}/small"), "shapes", (comparison(verdict),))]
    )
    assert text.splitlines() == [
        words,
        "  all right: -10.0 [-20.0, +5.0] points; 90.0 [80.0, 110.0] % of the baseline's",
        "  wins 25.0%, loses 50.0%, ties 25.0%",
    ]


def test_no_paired_values_no_verdict() -> None:
    (line,) = verdicts([beside(result("small"), "shapes", ())]).splitlines()
    assert "no verdict against shapes" in line


def test_costs_are_beside_the_first_models() -> None:
    text = cost_table([result("shapes"), result("small", parts=600)], width=132)
    rows = {line.split("  ")[0] or line.split("  ")[1]: line for line in text.splitlines()[2:]}
    assert rows["parameters, M"].split("  ", 1)[1].split() == ["1000", "600", "(-40.0", "%)"]
    assert rows["GMACs a call"].split("  ", 1)[1].split() == ["1000", "600", "(-40.0", "%)"]
    assert rows["as published"].split()[2:] == ["100", "60", "(-40.0", "%)"]
    assert "100 [90, 110]" in rows["ms a call"]  # of the rows of one image, not of a single row
    assert "0.5 [0.45, 0.55]" in rows["ratio to the first"]


def test_times_that_were_not_measured_are_dashes() -> None:
    lines = cost_table([replace(result("a"), speed=None)]).splitlines()
    assert [line.split()[-1] for line in lines[-2:]] == ["-", "-"]
