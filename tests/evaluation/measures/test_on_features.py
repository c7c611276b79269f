import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bksdm.errors import InputError
from bksdm.evaluation.keeping import Keeping
from bksdm.evaluation.measures.feature_set import FeatureSet, FeatureSum
from bksdm.evaluation.measures.features import FEATURES
from bksdm.evaluation.measures.frechet import Frechet, frechet_distance
from bksdm.evaluation.measures.kernel import Kernel
from bksdm.evaluation.measures.on_features import OnFeatures
from bksdm.evaluation.reference import About, Reference, read_reference, write_reference
from bksdm.evaluation.score import Score
from tests.evaluation.measures.networks import (
    CPU,
    DIM,
    Noise,
    Quarters,
    noise,
    pictures,
    subject,
)

KEEPING = Keeping(jpeg_quality=75, size=8)


def fd(reference: object, *, keeping: Keeping = KEEPING, network: Quarters | None = None) -> Score:
    """Of 40 pictures, in batches of 16."""
    measure = OnFeatures(
        network=network or Quarters(), metrics=[Frechet(reference=reference, name="FD")]
    )
    measuring = measure.begin(subject(keeping))
    for start in range(0, 40, 16):
        measuring.update(pictures(noise(40, seed=0)[start : start + 16], start=start))
    (score,) = measuring.scores()
    return score


def expected_fd(count: int, *, seed: int) -> float:
    extract = Quarters().load(CPU)
    sets = []
    for pixels in (noise(40, seed=0), noise(count, seed=seed)):
        rows = extract(pixels)[FEATURES].numpy()
        mean, covariance = rows.mean(0), np.cov(rows, rowvar=False)
        sets.append(FeatureSet(len(rows), torch.tensor(mean), torch.tensor(covariance)))
    return frechet_distance(*sets)


def written(path: Path, **network: str) -> Path:
    measure = OnFeatures(
        network=Quarters(**network), metrics=[Frechet(reference=str(path), name="FD")]
    )
    made = measure.write_references(
        Noise(50, 1).batches(KEEPING), device=CPU, keeping=KEEPING, source="noise"
    )
    assert made == [path]
    return path


@pytest.mark.parametrize("size", [1, 7, 100])
def test_batches_of_any_size_are_the_whole_at_once(size: int) -> None:
    rows = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)).double() + 3
    total = FeatureSum(5, rows=True)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    for chunk in order.split(size):
        total.update(rows[chunk], [f"{i:03d}" for i in chunk])
    found = total.feature_set()
    assert found.n == 100
    assert found.rows is not None
    torch.testing.assert_close(found.mean, rows.mean(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.covariance, rows.T.cov(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.rows, rows.float(), rtol=0, atol=0)  # in the order of ids


def test_a_written_reference_gives_the_distance_to_its_pictures(tmp_path: Path) -> None:
    path = written(tmp_path / "deep" / "set.safetensors")
    assert fd(str(path)).value == pytest.approx(expected_fd(50, seed=1), rel=1e-9)
    assert fd(Noise(50, 1)).value == pytest.approx(expected_fd(50, seed=1), rel=1e-9)
    assert read_reference(path).features.n == 50
    assert [file.name for file in path.parent.iterdir()] == ["set.safetensors"]


def test_a_score_says_what_it_depends_on(tmp_path: Path) -> None:
    score = fd(str(written(tmp_path / "set.safetensors")))
    told = json.loads(json.dumps(score.details))
    assert told["network"]["name"] == "quarters"
    assert told["reference"]["source"] == "noise"
    assert told["reference"]["keeping"].items() >= {"jpeg_quality": 75, "size": 8}.items()
    assert told["reference"]["file"] == str(tmp_path / "set.safetensors")
    assert score.n == 40


def test_a_reference_made_otherwise_is_refused(tmp_path: Path) -> None:
    path = str(written(tmp_path / "set.safetensors"))
    with pytest.raises(InputError, match=r"weights none, not other; .*bksdm prepare") as told:
        fd(path, network=Quarters(weights="other"))
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="input as it is, not smaller"):
        fd(path, network=Quarters(input="smaller"))
    with pytest.raises(InputError, match="jpeg_quality 75, not None; size 8, not 256"):
        fd(path, keeping=Keeping(size=256))
    fd(path, keeping=Keeping(jpeg_quality=75, size=8, jpeg_first=True))  # of generated ones alone


def test_a_missing_reference_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"gone\.safetensors: not there; `bksdm prepare source=coco"
    ):
        fd(str(tmp_path / "gone.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    (tmp_path / "bad.npz").write_bytes(b"no")
    for name in ("bad.safetensors", "bad.npz"):
        with pytest.raises(InputError, match=f"{name}: not a reference set"):
            fd(str(tmp_path / name))


def test_pytorch_fids_statistics_are_read(tmp_path: Path) -> None:
    rows = Quarters().load(CPU)(noise(50, seed=1))[FEATURES].numpy()
    np.savez(tmp_path / "set.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    score = fd(str(tmp_path / "set.npz"))
    assert score.value == pytest.approx(expected_fd(50, seed=1), rel=1e-9)
    assert score.details["reference"]["network"] is None  # not known, and said so
    np.savez(tmp_path / "other.npz", mu=rows.mean(0)[1:], sigma=np.cov(rows[:, 1:], rowvar=False))
    with pytest.raises(InputError, match=f"features {DIM - 1}, not {DIM}"):
        fd(str(tmp_path / "other.npz"))


def test_the_baselines_pictures_are_a_reference() -> None:
    measure = OnFeatures(
        network=Quarters(), metrics=[Frechet(reference="baseline", name="FD to baseline")]
    )
    ours, theirs = noise(40, seed=0), noise(40, seed=9)
    other, equal, own, alone = (measure.begin(subject()) for _ in range(4))
    other.update(pictures(ours, baseline=theirs))
    equal.update(pictures(ours, baseline=ours.clone()))
    own.update(pictures(ours, baseline=ours))
    alone.update(pictures(ours))
    assert other.scores()[0].value == pytest.approx(expected_fd(40, seed=9), rel=1e-9)
    assert abs(equal.scores()[0].value) < 1e-12
    assert own.scores() == alone.scores() == []


def test_rows_are_kept_if_they_are_there(tmp_path: Path) -> None:
    rows = torch.randn(4, 3)
    features = FeatureSet(4, rows.mean(0).double(), rows.T.cov().double(), rows)
    told = About(network=None, layer=FEATURES, keeping=None, source="here")
    write_reference(Reference(features, told), tmp_path / "set")
    read = read_reference(tmp_path / "set")
    assert read.features.rows is not None
    assert torch.equal(read.features.rows, rows)
    assert read.about == told


def test_a_layer_that_the_network_has_not_is_refused() -> None:
    measure = OnFeatures(network=Quarters(), metrics=[Frechet(reference="baseline", layer="top")])
    with pytest.raises(InputError, match=r"Frechet\.layer=top: quarters has features, logits"):
        measure.begin(subject())


def test_metrics_of_a_network_share_a_reference_file(tmp_path: Path) -> None:
    """One forward writes it; vectors are kept if one of the metrics needs them."""
    shared, lean = str(tmp_path / "shared"), str(tmp_path / "lean")
    measure = OnFeatures(
        network=Quarters(),
        metrics=[
            Frechet(reference=shared),
            Kernel(reference=shared, subset_size=10),
            Frechet(reference=lean, name="FID again"),
        ],
    )
    made = measure.write_references(
        Noise(50, 1).batches(KEEPING), device=CPU, keeping=KEEPING, source="noise"
    )
    assert made == [Path(shared), Path(lean)]
    assert [read_reference(path).features.rows is not None for path in made] == [True, False]
    assert measure.names == ("FID", "KID", "FID again")
    measuring = measure.begin(subject(KEEPING))
    measuring.update(pictures(noise(40, seed=0)))
    fid, kid, again = measuring.scores()
    assert (fid.name, kid.name) == ("FID", "KID")
    assert fid.value == again.value == pytest.approx(expected_fd(50, seed=1), rel=1e-9)
    with pytest.raises(InputError, match=r"lean: it has mean and covariance only, .*bksdm prepare"):
        OnFeatures(network=Quarters(), metrics=[Kernel(reference=lean)]).begin(subject(KEEPING))


def test_a_file_holds_one_layer(tmp_path: Path) -> None:
    path = str(tmp_path / "set")
    metrics = [
        Frechet(reference=path),
        Frechet(reference=path, layer="logits", name="FD of logits"),
    ]
    with pytest.raises(InputError, match="set: metrics take it for the layers features, logits"):
        OnFeatures(network=Quarters(), metrics=metrics).write_references(
            Noise(9, 1).batches(KEEPING), device=CPU, keeping=KEEPING, source="noise"
        )
