import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from bksdm.errors import InputError
from bksdm.evaluation.fingerprint import fingerprint, part_hashes
from bksdm.evaluation.gallery import Gallery, gallery_of, pictures
from bksdm.evaluation.generate import Sampling, generate
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measure import Pictures
from bksdm.evaluation.prompts import Prompt, from_texts
from bksdm.export.pipeline import load_pipeline

PROMPTS = from_texts(["red", "a blue square", "a green cross", "a dog", "two cats"], seed=5)
SAMPLING = Sampling(steps=2, guidance=2.0, batch_size=2)


@pytest.fixture(scope="module")
def pipeline(sd1_folder: Path) -> StableDiffusionPipeline:
    return load_pipeline(sd1_folder)


def gallery(
    root: Path,
    *,
    sampling: Sampling = SAMPLING,
    keeping: Keeping | None = None,
    prompts: Sequence[Prompt] = PROMPTS,
    weights: str = "abc",
    latents: bool = True,
    name: str = "runs/a",
) -> Gallery:
    return gallery_of(
        root,
        name=name,
        weights=weights,
        prompts=prompts,
        sampling=sampling,
        keeping=keeping or Keeping(),
        latents=latents,
        settings={},
    )


@contextmanager
def counted(pipeline: StableDiffusionPipeline) -> Iterator[list[int]]:
    """Rows of each U-Net call."""
    calls: list[int] = []
    handle = pipeline.unet.register_forward_hook(
        lambda module, arguments, output: calls.append(len(arguments[0]))
    )
    try:
        yield calls
    finally:
        handle.remove()


def by_id(batches: Iterator[Pictures]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for batch in batches:
        assert batch.latents is not None
        for row in zip(batch.prompts, batch.pixels, batch.latents, strict=True):
            found[row[0].id] = row[1:]
    return found


def times(kept: Gallery) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (kept.folder / "images").iterdir()}


def test_a_picture_depends_on_neither_batch_order_nor_process(
    pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    expected = by_id(pictures(pipeline, PROMPTS, SAMPLING, gallery(tmp_path / "0")))
    assert list(expected) == [prompt.id for prompt in PROMPTS]
    ways = {
        "one at once": (1, [PROMPTS]),
        "all at once": (9, [PROMPTS]),
        "backwards": (3, [PROMPTS[::-1]]),
        "two processes": (2, [PROMPTS[0::2], PROMPTS[1::2]]),
        "six processes": (2, [PROMPTS[rank::6] for rank in range(6)]),
    }
    for way, (batch_size, shares) in ways.items():
        kept = gallery(tmp_path / way)
        found = {}
        for mine in shares:
            found |= by_id(pictures(pipeline, mine, replace(SAMPLING, batch_size=batch_size), kept))
        assert found.keys() == expected.keys()
        for name, (pixels, latents) in found.items():
            torch.testing.assert_close(latents, expected[name][1], rtol=1e-4, atol=1e-4)
            assert (pixels.int() - expected[name][0].int()).abs().max() <= 1


def test_what_is_finished_is_not_made_again(
    pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    kept = gallery(tmp_path)
    stopped = kept.file(PROMPTS[3])
    with counted(pipeline) as calls:
        made = pictures(pipeline, PROMPTS, SAMPLING, kept)
        next(made)  # while the first batch is written, the second is sampled
        made.close()
    assert calls == [4] * 2 * SAMPLING.steps  # two rows a prompt, two batches
    stopped.unlink()  # as if killed within the second batch
    before = times(kept)
    with counted(pipeline) as calls:
        assert len(by_id(pictures(pipeline, PROMPTS, SAMPLING, gallery(tmp_path)))) == 5
    assert calls == [2] * 2 * SAMPLING.steps  # one that was left of a batch, and the last batch
    again = times(kept)
    assert {name: again[name] for name in before if "000003" not in name} == {
        name: time for name, time in before.items() if "000003" not in name
    }
    with counted(pipeline) as calls:
        by_id(pictures(pipeline, PROMPTS, SAMPLING, gallery(tmp_path)))
    assert calls == []
    assert times(kept) == again


KILLED = """
import sys
from pathlib import Path
from bksdm.export.pipeline import load_pipeline
from tests.evaluation.test_gallery import PROMPTS, SAMPLING, gallery, pictures

kept = gallery(Path(sys.argv[2]))
for batch in pictures(load_pipeline(sys.argv[1]), PROMPTS, SAMPLING, kept):
    print("made", flush=True)
    sys.stdin.readline()
"""


def test_a_killed_process_leaves_whole_pictures_and_goes_on(
    pipeline: StableDiffusionPipeline, sd1_folder: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(sd1_folder), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"made\n"
        process.stdin.write(b"\n")
        process.stdin.flush()
        time.sleep(0.02)  # into the second batch
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = gallery(tmp_path)
    before = times(kept)
    finished = [prompt for prompt in PROMPTS if kept.has(prompt)]
    assert len(finished) >= 2
    with counted(pipeline) as calls:
        found = by_id(pictures(pipeline, PROMPTS, SAMPLING, kept))
    assert sum(calls) == 2 * SAMPLING.steps * (len(PROMPTS) - len(finished))
    assert (
        times(kept).items()
        >= {kept.file(prompt).name: before[kept.file(prompt).name] for prompt in finished}.items()
    )
    expected = by_id(pictures(pipeline, PROMPTS, SAMPLING, gallery(tmp_path / "whole")))
    for name, (pixels, _) in found.items():
        assert (pixels.int() - expected[name][0].int()).abs().max() <= 1


OTHERS = {
    "weights": {"weights": "abd"},
    "latents": {"latents": False},
    "a prompt's text": {"prompts": [replace(PROMPTS[0], text="blue"), *PROMPTS[1:]]},
    "a prompt's seed": {"prompts": [replace(PROMPTS[0], seed=9), *PROMPTS[1:]]},
    "fewer prompts": {"prompts": PROMPTS[:-1]},
    "steps": {"sampling": replace(SAMPLING, steps=3)},
    "guidance": {"sampling": replace(SAMPLING, guidance=2.5)},
    "scheduler": {"sampling": replace(SAMPLING, scheduler="PNDMScheduler")},
    "its settings": {
        "sampling": replace(
            SAMPLING, scheduler="PNDMScheduler", scheduler_settings={"skip_prk_steps": True}
        )
    },
    "sampled size": {"sampling": replace(SAMPLING, size=32)},
    "dtype": {"sampling": replace(SAMPLING, dtype="bfloat16")},
    "JPEG": {"keeping": Keeping(jpeg_quality=75)},
    "JPEG's quality": {"keeping": Keeping(jpeg_quality=76)},
    "JPEG first": {"keeping": Keeping(jpeg_quality=75, jpeg_first=True)},
    "kept size": {"keeping": Keeping(size=32)},
    "both sizes": {"sampling": replace(SAMPLING, size=64), "keeping": Keeping(size=32)},
    "filter": {"keeping": Keeping(size=32, resample="box")},
    "name": {"name": "runs/b"},
}


def test_pictures_that_differ_never_share_a_folder(tmp_path: Path) -> None:
    folders = [gallery(tmp_path, **others).folder for others in ({}, *OTHERS.values())]
    assert len(set(folders)) == len(OTHERS) + 1
    # Its number of prompts at once changes a picture in the last bits only.
    assert gallery(tmp_path, sampling=replace(SAMPLING, batch_size=7)).folder == folders[0]
    assert len({len(folder.relative_to(tmp_path).parts) for folder in folders}) == 1


def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    for name in ("../../etc", "/", "", "a b/c;d", "."):
        assert gallery(tmp_path, name=name).folder.parent == tmp_path


def test_the_fingerprint_knows_weights_and_settings(
    pipeline: StableDiffusionPipeline, sd1_folder: Path
) -> None:
    other = load_pipeline(sd1_folder)
    expected = fingerprint(part_hashes(pipeline))
    assert fingerprint(part_hashes(other)) == expected
    other.scheduler.register_to_config(prediction_type="v_prediction")
    assert fingerprint(part_hashes(other)) != expected
    other = load_pipeline(sd1_folder)
    other.vae.register_to_config(scaling_factor=1.0)
    assert fingerprint(part_hashes(other)) != expected
    other = load_pipeline(sd1_folder)
    with torch.no_grad():
        next(other.vae.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(part_hashes(other)) != expected


@pytest.mark.parametrize("keeping", [Keeping(), Keeping(jpeg_quality=90)], ids=["png", "jpeg"])
def test_half_a_picture_is_refused_in_one_line(
    pipeline: StableDiffusionPipeline, tmp_path: Path, keeping: Keeping
) -> None:
    kept = gallery(tmp_path, keeping=keeping)
    by_id(pictures(pipeline, PROMPTS[:2], SAMPLING, kept))
    path = kept.file(PROMPTS[1])
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:20], b"no picture", whole[::-1]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="remove it, and evaluate again") as refused:
            list(pictures(pipeline, PROMPTS[:2], SAMPLING, kept))
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_damage_of_a_png_is_one_line_where_it_is_noticed(
    pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    kept = gallery(tmp_path, latents=False)
    list(pictures(pipeline, PROMPTS[:1], SAMPLING, kept))
    path = kept.file(PROMPTS[0])
    whole = path.read_bytes()
    noticed = 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            kept.read(PROMPTS[:1])
        except InputError:
            noticed += 1
    assert noticed > len(whole) / 6


def test_half_of_the_latents_are_refused_in_one_line(
    pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    kept = gallery(tmp_path)
    by_id(pictures(pipeline, PROMPTS[:2], SAMPLING, kept))
    path = kept.file(PROMPTS[0]).with_suffix(".npy")
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:20], b"nothing of the sort"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="remove the picture beside it"):
            kept.read(PROMPTS[:2])
    path.unlink()
    with pytest.raises(InputError, match="remove the picture beside it"):
        kept.read(PROMPTS[:2])


def test_latents_are_the_samplers_own(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    found = by_id(pictures(pipeline, PROMPTS[:2], SAMPLING, gallery(tmp_path)))
    for item in generate(pipeline, PROMPTS[:2], SAMPLING):
        pixels, latents = found[item.prompt.id]
        assert torch.equal(latents, item.latents)
        assert torch.equal(pixels, item.pixels)


@pytest.mark.parametrize(
    ("keeping", "suffix", "kind"),
    [
        (Keeping(), ".png", "PNG"),
        (Keeping(size=12), ".png", "PNG"),
        (Keeping(jpeg_quality=80, size=12, jpeg_first=True), ".jpg", "JPEG"),
    ],
)
def test_pictures_are_what_the_files_hold(
    pipeline: StableDiffusionPipeline, tmp_path: Path, keeping: Keeping, suffix: str, kind: str
) -> None:
    kept = gallery(tmp_path, keeping=keeping, latents=False)
    (batch,) = pictures(pipeline, PROMPTS[:2], SAMPLING, kept)
    assert batch.latents is None
    for prompt, pixels in zip(batch.prompts, batch.pixels, strict=True):
        with Image.open(kept.folder / "images" / f"{prompt.id}{suffix}") as image:
            assert image.format == kind
            assert np.array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())
    assert not list((kept.folder / "images").glob("*.npy"))


def test_the_baselines_pictures_come_along(
    pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    baseline, own = gallery(tmp_path, name="teacher"), gallery(tmp_path)
    theirs = by_id(pictures(pipeline, PROMPTS, SAMPLING, baseline, baseline=baseline))
    fewer = replace(SAMPLING, batch_size=3)
    for batch in pictures(pipeline, PROMPTS[::-1], fewer, own, baseline=baseline):
        assert batch.baseline is not None
        assert batch.baseline.prompts == batch.prompts
        for prompt, pixels in zip(batch.prompts, batch.baseline.pixels, strict=True):
            assert torch.equal(pixels, theirs[prompt.id][0])
    (first, *_) = pictures(pipeline, PROMPTS, SAMPLING, baseline, baseline=baseline)
    assert first.baseline is not None
    assert first.baseline.pixels is first.pixels


def test_what_is_no_number_is_not_kept_as_black(sd1_folder: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(sd1_folder)
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias[0] = float("nan")
    with pytest.raises(InputError, match=r"prompt 000000 is not a number.*bfloat16"):
        list(pictures(pipeline, PROMPTS[:1], SAMPLING, gallery(tmp_path)))
    assert not gallery(tmp_path).has(PROMPTS[0])
