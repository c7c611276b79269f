from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bksdm.errors import InputError
from bksdm.evaluation.keeping import to_image
from bksdm.evaluation.measures.dinov2 import Dinov2, fit_positions
from bksdm.evaluation.measures.features import FEATURES
from bksdm.evaluation.measures.frechet import Frechet
from bksdm.evaluation.measures.inputs import IMAGENET_MEAN, IMAGENET_STD
from bksdm.evaluation.measures.on_features import OnFeatures
from tests.evaluation.measures.networks import CPU, Noise, noise, pictures, subject
from tests.evaluation.measures.transformers_folders import dinov2_folder


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def weights(side: int, old: int) -> np.ndarray:
    """(side, old): which old points a new one is of, where new / old is (side + 0.1) / old."""
    found = np.zeros((side, old))
    for i in range(side):
        point = (i + 0.5) * old / (side + 0.1) - 0.5
        for tap in range(int(np.floor(point)) - 1, int(np.floor(point)) + 3):
            found[i, min(max(tap, 0), old - 1)] += cubic(point - tap)
    return found


def test_positions_are_those_of_the_authors_code(tmp_path: Path) -> None:
    network = dinov2_folder(tmp_path)
    old = network.embeddings.position_embeddings.detach().clone()
    fit_positions(network, 3)
    grid = old[0, 1:].reshape(5, 5, -1).numpy()
    along = weights(3, 5)
    expected = np.einsum("ia,jb,abd->ijd", along, along, grid).reshape(9, -1)
    found = network.embeddings.position_embeddings
    np.testing.assert_allclose(found[0, 1:].numpy(), expected, atol=1e-5)
    assert torch.equal(found[0, 0], old[0, 0])


def test_features_are_the_class_token_of_squashed_pictures(tmp_path: Path) -> None:
    network = dinov2_folder(tmp_path).double()
    extractor = Dinov2(weights=str(tmp_path), size=35).load(CPU)
    pixels = torch.cat([noise(3, seed=0), noise(3, seed=1)], 3)  # 8 x 16
    images = [to_image(each).resize((35, 35), Image.Resampling.BICUBIC) for each in pixels]
    values = np.stack([(np.asarray(each) / 255 - IMAGENET_MEAN) / IMAGENET_STD for each in images])
    seen = network(torch.tensor(values).permute(0, 3, 1, 2))
    expected = seen.last_hidden_state[:, 0].detach()
    assert extractor.dims == {FEATURES: 32}
    torch.testing.assert_close(extractor(pixels)[FEATURES].double(), expected, atol=1e-4, rtol=1e-4)


def test_a_frechet_distance_on_it(tmp_path: Path) -> None:
    dinov2_folder(tmp_path)
    measure = OnFeatures(
        network=Dinov2(weights=str(tmp_path), size=21),
        metrics=[Frechet(reference=Noise(50, 0), name="FD-DINOv2")],
    )
    measuring = measure.begin(subject())
    measuring.update(pictures(noise(50, seed=0)))
    (score,) = measuring.scores()
    assert score.name == "FD-DINOv2"
    assert score.value == pytest.approx(0, abs=1e-3)  # the reference is the same noise


def test_another_network_is_refused(tmp_path: Path) -> None:
    dinov2_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model.safetensors or pytorch_model.bin"):
        Dinov2(weights=str(tmp_path)).load(CPU)
