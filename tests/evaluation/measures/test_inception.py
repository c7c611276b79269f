import hashlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bksdm.errors import InputError
from bksdm.evaluation.measures.feature_set import FeatureSet
from bksdm.evaluation.measures.features import FEATURES
from bksdm.evaluation.measures.inception import LOGITS, Inception
from bksdm.evaluation.measures.inception_input import INPUTS
from bksdm.evaluation.measures.inception_score import InceptionScore
from bksdm.evaluation.measures.kernel import Kernel
from tests.evaluation.measures.networks import CPU


def picture(height: int, width: int, *, seed: int = 0, count: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=rng)


def test_pytorch_fids_input_is_the_mean_of_neighbours_with_half_pixel_centres() -> None:
    pixels = picture(16, 40)
    made = INPUTS["pytorch_fid"](pixels, CPU)
    row, column = 200, 37
    y, x = max((row + 0.5) * 16 / 299 - 0.5, 0), max((column + 0.5) * 40 / 299 - 0.5, 0)
    expected = 2 * mixed(pixels, y, x) / 255 - 1
    np.testing.assert_allclose(made[0, :, row, column], expected, atol=1e-5)


def test_tensorflows_input_is_the_mean_of_neighbours_from_the_corner(
    torch_fidelity: ModuleType,
) -> None:
    pixels = picture(16, 40)
    made = INPUTS["tensorflow"](pixels, CPU)
    row, column = 200, 37
    expected = (mixed(pixels, row * 16 / 299, column * 40 / 299) - 128) / 128
    np.testing.assert_allclose(made[0, :, row, column], expected, atol=1e-5)


def mixed(pixels: Tensor, y: float, x: float) -> np.ndarray:
    """Bilinear, of the first picture."""
    values = pixels[0].double().numpy()
    top, left = int(y), int(x)
    dy, dx = y - top, x - left
    bottom, right = min(top + 1, values.shape[1] - 1), min(left + 1, values.shape[2] - 1)
    above = values[:, top, left] * (1 - dx) + values[:, top, right] * dx
    below = values[:, bottom, left] * (1 - dx) + values[:, bottom, right] * dx
    return above * (1 - dy) + below * dy


@pytest.mark.parametrize("side", [(64, 64), (400, 320), (299, 299)])
def test_clean_input_is_antialiased_bicubic_in_float(side: tuple[int, int]) -> None:
    pixels = picture(*side)
    made = INPUTS["clean"](pixels, CPU)
    smooth = F.interpolate(pixels.double(), size=(299, 299), mode="bicubic", antialias=True)
    expected = (smooth.clamp(0, 255) - 128) / 128
    np.testing.assert_allclose(made, expected, atol=2e-5)


def test_clean_input_is_pils_but_not_rounded() -> None:
    middle = picture(400, 320) // 2 + 64  # PIL cuts to a byte's range between its two passes, too
    levels = INPUTS["clean"](middle, CPU)[0].permute(1, 2, 0).numpy() * 128 + 128
    image = Image.fromarray(middle[0].permute(1, 2, 0).numpy())
    rounded = np.asarray(image.resize((299, 299), Image.Resampling.BICUBIC))
    assert np.abs(levels - rounded).max() < 1.5  # it rounds twice
    assert np.abs(levels - levels.round()).max() > 0.4


@pytest.mark.parametrize("kind", ["pytorch_fid", "clean"])
def test_a_picture_of_the_networks_size_stays_as_it_is(kind: str) -> None:
    pixels = picture(299, 299)
    scale = {"pytorch_fid": pixels / 127.5 - 1, "clean": (pixels.float() - 128) / 128}[kind]
    torch.testing.assert_close(INPUTS[kind](pixels, CPU), scale)


@pytest.mark.parametrize("side", [299, 64])
def test_features_and_logits_are_torch_fidelitys(
    torch_fidelity: ModuleType, inception_weights: Path, side: int
) -> None:
    theirs = torch_fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], str(inception_weights)
    )
    pixels = picture(side, side)
    extract = Inception(input="tensorflow", weights=str(inception_weights)).load(CPU)
    found, (pooled, logits) = extract(pixels), theirs(pixels)
    assert pooled.std() > 1e-3
    torch.testing.assert_close(found[FEATURES], pooled, rtol=0, atol=0)
    torch.testing.assert_close(found[LOGITS], logits, rtol=0, atol=0)
    assert {name: layer.shape[1] for name, layer in found.items()} == extract.dims


def test_inputs_give_other_features_and_another_identity(
    torch_fidelity: ModuleType, inception_weights: Path
) -> None:
    made = [Inception(input=kind, weights=str(inception_weights)).load(CPU) for kind in INPUTS]
    features = [extract(picture(400, 400, count=1))[FEATURES] for extract in made]
    for i, first in enumerate(features):
        for second in features[:i]:
            assert (first - second).norm() > 1e-3 * first.norm()
    assert len({str(extract.identity.key) for extract in made}) == len(INPUTS)
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert made[0].identity.weights == digest
    assert made[0].identity.name == "Inception v3 (weights of your own)"


def test_missing_and_other_weights_are_told(
    torch_fidelity: ModuleType, inception_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"gone.pth: not there; get https://github.com/\S+\.pth"):
        Inception(input="clean", weights=str(tmp_path / "gone.pth")).load(CPU)
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(InputError, match=r"text.pth: no file of plain tensors"):
        Inception(input="clean", weights=str(tmp_path / "text.pth")).load(CPU)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth: not the weights of FID's Inception"):
        Inception(input="clean", weights=str(tmp_path / "other.pth")).load(CPU)


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"input=pil: expected one of pytorch_fid, clean, tens"):
        Inception(input="pil")


def test_kid_and_inception_score_are_torch_fidelitys(torch_fidelity: ModuleType) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 16, generator=rng) * 2 for n in (230, 170))
    nothing = torch.zeros(16)
    ours, other = (FeatureSet(len(rows), nothing, nothing, rows) for rows in (first, second))
    (score,) = InceptionScore().scores(ours, None)
    told = isc_features_to_metric(first)
    assert score.value == pytest.approx(told["inception_score_mean"], rel=1e-9)
    assert score.deviation == pytest.approx(told["inception_score_std"], rel=1e-9)
    (score,) = Kernel(reference="baseline", subset_size=100).scores(ours, other)
    told = kid_features_to_metric(
        first.double(), second.double(), kid_subset_size=100, verbose=False
    )
    assert score.value == pytest.approx(told["kernel_inception_distance_mean"], rel=1e-9)
    assert score.deviation == pytest.approx(told["kernel_inception_distance_std"], rel=1e-9)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(
        InputError, match=r"needs torch_fidelity, .* pip install 'bksdm\[metrics\]'"
    ):
        Inception(input="clean").load(CPU)


def test_weights_that_cannot_be_downloaded_are_told(
    torch_fidelity: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3",
        "http://127.0.0.1:9/weights.pth",
    )
    with pytest.raises(InputError, match=r"cannot be downloaded .*; get https://\S+\.pth and name"):
        Inception(input="clean").load(CPU)
