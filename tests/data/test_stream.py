import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from bksdm.batch import Fault
from bksdm.data.contents import META
from bksdm.data.exact import Loading, Share
from bksdm.data.record import format_of
from bksdm.data.samples import Pictures, SampleSettings
from bksdm.data.stream import StreamTraining, first_meta
from bksdm.errors import InputError
from bksdm.models.source import embedded_folder
from tests.data.hostile import good, png, write_tar
from tests.data.servers import Nginx

Cli = Callable[..., int]
SETTINGS = SampleSettings(
    tokenizer=CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer"),
    kind=Pictures(16),
    flip=False,
    caption_dropout=0.0,
)


def stream(*locations: object, buffer: int = 8) -> StreamTraining:
    return StreamTraining(
        tuple(map(str, locations)), SETTINGS, seed=1, buffer=buffer, global_batch=8
    )


def share(rank: int = 0, world: int = 1, first_step: int = 0) -> Share:
    return Share(batch=4, rank=rank, world=world, first_step=first_step, last_step=100)


def seeds(training: StreamTraining, where: Share, workers: int = 0, count: int = 10) -> list[int]:
    loader = training.loader(where, Loading(workers, None))
    batches = itertools.islice(loader, count)
    return [seed for batch in batches for seed in batch.seeds.tolist()]


def test_it_is_as_long_as_the_run_and_never_ends(shards: Path) -> None:
    training = stream(shards / "train-00000.tar")
    loader = training.loader(share(), Loading(0, None))
    assert len(loader) == 200
    batches = list(itertools.islice(loader, 30))
    assert all(
        batch.pixels is not None and batch.pixels.shape == (4, 3, 16, 16) for batch in batches
    )


def test_processes_workers_and_resumed_runs_see_other_samples(shards: Path) -> None:
    training = stream(*sorted(shards.glob("train-*.tar")))
    runs = [
        seeds(training, share()),
        seeds(training, share(rank=1, world=2)),
        seeds(training, share(first_step=5)),
    ]
    everything = [seed for run in runs for seed in run]
    assert len(set(everything)) == len(everything)
    assert len(set(seeds(training, share(), workers=2))) == 40
    assert seeds(training, share()) == runs[0]


def test_the_buffer_mixes(shards: Path) -> None:
    def captions(buffer: int) -> list[list[int]]:
        loader = stream(shards / "train-00000.tar", buffer=buffer).loader(share(), Loading(0, None))
        return [row for batch in itertools.islice(loader, 4) for row in batch.tokens.tolist()]

    plain, mixed = captions(1), captions(16)
    assert plain != mixed


def test_bad_samples_and_shards_are_left_out_and_reported(tmp_path: Path) -> None:
    fine = write_tar(tmp_path / "a.tar", [*good(4), ("x.png", b"no"), ("x.txt", b"x")])
    cut = write_tar(tmp_path / "cut.tar", [*good(4), ("y.png", png((1, 2, 3), (300, 300)))])
    cut.write_bytes(cut.read_bytes()[: 4 * 2048 + 512 + 100])
    loader = stream(fine, cut).loader(share(), Loading(0, None))
    faults = {
        (fault.shard, fault.reason)
        for batch in itertools.islice(loader, 20)
        for fault in batch.faults
    }
    assert ("a.tar", "not a picture") in faults
    assert ("cut.tar", "shard cannot be read to its end") in faults


def test_nothing_but_bad_samples_stops_the_run(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{i}.png", png()) for i in range(50)])
    with pytest.raises(InputError, match=r"1000 bad samples in a row.*a\.tar \(no caption"):
        seeds(stream(path), share())


def test_empty_shards_alone_stop_the_run(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [])
    with pytest.raises(InputError, match=r"no sample in 10 shards.*it is empty"):
        seeds(stream(path), share())


def test_a_key_that_comes_twice_costs_one_sample(tmp_path: Path) -> None:
    members = [*good(2), ("0001.txt", b"again"), *good(6, first=2)]
    loader = stream(write_tar(tmp_path / "a.tar", members)).loader(share(), Loading(0, None))
    batches = list(itertools.islice(loader, 10))
    assert {fault for batch in batches for fault in batch.faults} == {
        Fault("a.tar", "0001", "duplicate key")
    }
    assert len(batches) == 10


def test_latents_of_two_kinds_do_not_mix(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", [(META, b'{"vae_hash": "a"}'), *good(9)])
    other = write_tar(tmp_path / "b.tar", [(META, b'{"vae_hash": "b"}'), *good(9)])
    assert first_meta(str(first)) == {"vae_hash": "a"}
    mixed = replace(stream(first, other), format=format_of({"vae_hash": "a"}))
    with pytest.raises(InputError, match=r"b\.tar is of another kind than the first"):
        seeds(mixed, share(), count=50)


def test_pickles_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = b"cos\nsystem\n(S'touch owned'\ntR."
    path = write_tar(tmp_path / "a.tar", [*good(4), ("0003.pyd", evil), ("0003.pkl", evil)])
    assert len(seeds(stream(path), share(), count=4)) == 16
    assert not (tmp_path / "owned").exists()


def test_shards_that_have_all_gone_stop_the_run(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", good(4))
    training = stream(path)
    path.unlink()
    with pytest.raises(InputError, match=r"no sample in 10 shards.*a\.tar"):
        seeds(training, share())


def test_a_web_server_and_a_command_are_streamed(
    nginx: Nginx, served: Path, tmp_path: Path
) -> None:
    write_tar(served / "a.tar", good(8))
    assert len(seeds(stream(f"{nginx.url}/{served.name}/a.tar"), share(), count=4)) == 16
    assert len(seeds(stream(f"pipe:cat {served}/a.tar"), share(), count=4)) == 16
    assert first_meta(f"{nginx.url}/{served.name}/a.tar") == {}
    with pytest.raises(InputError, match="cannot be streamed"):
        first_meta(f"{nginx.url}/{served.name}/b.tar")


def test_a_run_trains_from_a_stream_of_pictures_and_of_latents(
    run_cli: Cli, tiny_run: list[str], sd1_folder: Path, shards: Path, tmp_path: Path
) -> None:
    assert run_cli(*tiny_run, "name=stream", "data.mode=stream", "data.buffer=16") == 0
    encode = ["encode", f"teacher={sd1_folder}", "teacher.name=tiny", f"shards={shards}/*.tar"]
    assert run_cli(*encode, "out=latents", "resolution=16", "workers=0") == 0
    cached = [argument.replace(str(shards), str(tmp_path / "latents")) for argument in tiny_run]
    arguments = ["data.mode=stream", "data.flip=false", "data.workers=1"]
    assert run_cli(*cached, "name=latents", *arguments) == 0
