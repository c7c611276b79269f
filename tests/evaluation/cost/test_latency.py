import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from bksdm.errors import InputError
from bksdm.evaluation.cost.image_cost import unet_calls
from bksdm.evaluation.cost.latency import (
    LatencyReport,
    LatencySettings,
    ModelLatency,
    pipeline_latency,
    unet_call,
    weight_bytes,
)
from bksdm.evaluation.cost.timing import Quartiles, quartiles, ratios, samples_in_turn
from bksdm.evaluation.generate import Sampling
from bksdm.models.cost import parameter_count
from tests.conftest import tiny_pipeline, tiny_unet

CPU = torch.device("cpu")
SAMPLING = Sampling(steps=2, guidance=3.0, batch_size=16)
BRIEF = LatencySettings(warmup=1, repeats=2, image_repeats=2, batch_sizes=(4,))


def quiet_pipeline() -> StableDiffusionPipeline:
    pipeline = tiny_pipeline("sd1")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def rows_of_calls(unet: nn.Module, name: str, into: list[tuple[str, int]]) -> None:
    unet.register_forward_pre_hook(lambda module, inputs: into.append((name, len(inputs[0]))))


def full_above(rows: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A real failure to allocate, from so many rows on."""

    def allocate(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) >= rows:
            torch.empty(2**50, dtype=torch.uint8)

    return allocate


def report(pipelines: dict[str, StableDiffusionPipeline], **given: Any) -> LatencyReport:
    return pipeline_latency(pipelines, BRIEF, sampling=SAMPLING, **given)


def test_models_are_called_in_turn() -> None:
    calls: list[tuple[str, int]] = []
    pipelines = {name: quiet_pipeline() for name in ("one", "two", "three")}
    for name, pipeline in pipelines.items():
        rows_of_calls(pipeline.unet, name, calls)
    report(pipelines)
    order: list[tuple[str, int]] = []
    for rows in (1, 2):  # one warm-up round and two counted ones, a call each
        order += [(name, rows) for name in pipelines] * 3
    for images in (1, 4):  # the same of images: two steps with guidance
        order += [(name, 2 * images) for name in pipelines for _ in range(2)] * 3
    assert calls == order


def test_a_report_has_everything_and_is_json() -> None:
    told: list[int] = []
    pipelines = {"one": quiet_pipeline(), "two": quiet_pipeline()}
    found = report(pipelines, advance=told.append)
    assert sum(told) == BRIEF.calls(2) == 2 * (2 * 3 + 2 * 3)
    assert [model.model for model in found.models] == ["one", "two"]
    for model in found.models:
        assert model.dtype == "float32"
        assert [each.batch for each in model.unet_calls] == [1, 2]
        assert [each.batch for each in model.images] == [1, 4]
        for each in (*model.unet_calls, *model.images):
            assert each.seconds is not None
            assert 0 < each.seconds.low <= each.seconds.median <= each.seconds.high
            assert each.per_second == each.batch / each.seconds.median
            assert each.peak_bytes is None  # a CPU's cannot be told
            assert not each.out_of_memory
    assert found.machine.device == "cpu"
    assert found.machine.threads == torch.get_num_threads()
    assert found.machine.name
    read = json.loads(json.dumps(asdict(found)))
    assert read["models"][0]["unet_calls"][0]["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert read["sampling"]["steps"] == 2


def test_u_nets_alone() -> None:
    settings = LatencySettings(warmup=0, repeats=1, image_repeats=0)
    told: list[int] = []
    found = pipeline_latency(
        {"one": quiet_pipeline()}, settings, sampling=SAMPLING, advance=told.append
    )
    assert found.models[0].images == ()
    assert sum(told) == settings.calls(1) == 2


def test_size_scheduler_and_dtype_are_the_samplings() -> None:
    pipeline, calls = quiet_pipeline(), []
    pipeline.unet.register_forward_pre_hook(
        lambda module, inputs: calls.append((tuple(inputs[0].shape), inputs[0].dtype))
    )
    sampling = Sampling(
        steps=4, guidance=1.0, batch_size=1, size=32, scheduler="PNDMScheduler", dtype="bfloat16"
    )
    settings = LatencySettings(warmup=0, repeats=1, image_repeats=1, batch_sizes=())
    found = pipeline_latency({"one": pipeline}, settings, sampling=sampling)
    # Latents of 16 a side; PNDM without its own settings makes many calls in 4 steps.
    of_an_image = unet_calls(sampling.prepared(pipeline).scheduler, 4)
    rows = [1, 2] + [1] * of_an_image
    assert calls == [((n, 4, 16, 16), torch.bfloat16) for n in rows]
    assert of_an_image > 4
    assert found.models[0].dtype == "bfloat16"


def time_ratio(unet: nn.Module, baseline: nn.Module, *, rounds: int) -> Quartiles:
    calls = {
        name: unet_call(each, rows=2, tokens=7)
        for name, each in (("ours", unet), ("baseline", baseline))
    }
    samples_in_turn(calls, rounds=2, device=CPU)
    ours, theirs = samples_in_turn(calls, rounds=rounds, device=CPU).values()
    assert ours is not None
    assert theirs is not None
    return ratios(ours.seconds, theirs.seconds)


def test_a_u_net_takes_as_long_as_itself() -> None:
    unet = tiny_unet("sd1")
    ratio = time_ratio(unet, unet, rounds=15)
    assert 0.5 < ratio.median < 2
    assert ratio.low <= ratio.median <= ratio.high


def test_a_slower_u_net_takes_longer() -> None:
    slow, unet = tiny_unet("sd1"), tiny_unet("sd1")
    unet_call(unet, rows=1, tokens=7)()
    begin = time.perf_counter()
    unet_call(unet, rows=1, tokens=7)()
    pause = 3 * (time.perf_counter() - begin)
    slow.register_forward_hook(lambda module, inputs, output: time.sleep(pause))
    assert time_ratio(slow, unet, rounds=9).median > 1.5
    assert time_ratio(unet, slow, rounds=9).median < 0.7


def test_what_does_not_fit_is_told_and_the_rest_is_timed() -> None:
    pipelines = {name: quiet_pipeline() for name in ("baseline", "large", "other")}
    pipelines["large"].unet.register_forward_pre_hook(full_above(8))
    told: list[int] = []
    found = report(pipelines, advance=told.append)
    assert sum(told) == BRIEF.calls(3)
    baseline, large, other = found.models
    single, four = large.images
    assert single.seconds is not None
    assert four.out_of_memory
    assert (four.seconds, four.per_second, four.ratio, four.peak_bytes) == (None,) * 4
    for model in (baseline, other):
        assert model.images[1].ratio is not None


def test_a_baseline_that_does_not_fit_leaves_no_ratio() -> None:
    pipelines = {"baseline": quiet_pipeline(), "other": quiet_pipeline()}
    pipelines["baseline"].unet.register_forward_pre_hook(full_above(8))
    other: ModelLatency = report(pipelines).models[1]
    assert other.images[0].ratio is not None
    assert (other.images[1].ratio, other.images[1].out_of_memory) == (None, False)
    assert other.images[1].seconds is not None


def test_memory_that_runs_out_later_counts_too() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = samples_in_turn({"call": call, "other": lambda: None}, rounds=4, device=CPU)
    assert (found["call"], len(calls)) == (None, 2)
    assert found["other"] is not None
    assert len(found["other"].seconds) == 4


def test_other_errors_are_not_taken_for_it() -> None:
    unet = tiny_unet("sd1")
    call = unet_call(unet, rows=1, tokens=7)
    unet.conv_in = nn.Conv2d(3, 8, 3)  # expects other latents
    with pytest.raises(RuntimeError, match="channels"):
        samples_in_turn({"one": call}, rounds=1, device=CPU)


def test_quartiles_are_pythons() -> None:
    values = [5.0, 1.0, 9.0, 2.5, 4.0, 8.0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    found = quartiles(values)
    assert (found.low, found.median, found.high) == pytest.approx((low, median, high))
    assert quartiles([3.0]).low == 3.0


def test_weights_are_counted_in_bytes() -> None:
    unet = tiny_unet("sd1")
    assert weight_bytes(unet) == 4 * parameter_count(unet)
    assert weight_bytes(unet.half(), unet) == 4 * parameter_count(unet)


@pytest.mark.parametrize(
    "values",
    [
        {"warmup": -1},
        {"repeats": 0},
        {"repeats": 2.5},
        {"image_repeats": -1},
        {"batch_sizes": (0,)},
        {"batch_sizes": 8},
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    name = next(iter(values))
    with pytest.raises(InputError, match=f"latency.{name}=.*expected"):
        LatencySettings(**values)


def test_batch_sizes_of_a_shell_are_frozen_and_ordered() -> None:
    shell: Any = [16, 4, 1]
    settings = LatencySettings(batch_sizes=shell)
    assert settings == LatencySettings(batch_sizes=(16, 4, 1))
    assert settings.image_batches == (1, 4, 16)


def test_models_on_different_devices_are_refused() -> None:
    other = quiet_pipeline()
    other.unet = UNet2DConditionModel.from_config(other.unet.config).to("meta")
    with pytest.raises(InputError, match="one on cpu, two on meta"):
        report({"one": quiet_pipeline(), "two": other})
    with pytest.raises(InputError, match="latency on meta"):
        report({"two": other})
    with pytest.raises(InputError, match="no model"):
        report({})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_of_a_gpu_holds_the_weights() -> None:
    pipelines = {name: quiet_pipeline().to("cuda") for name in ("one", "two")}
    unet = pipelines["one"].unet
    for model in report(pipelines).models:
        for each in model.unet_calls:
            assert each.peak_bytes is not None
            assert weight_bytes(unet) < each.peak_bytes < 100 * weight_bytes(unet) + 2**28
