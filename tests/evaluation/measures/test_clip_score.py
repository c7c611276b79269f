import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from bksdm.checksum import sha256_of
from bksdm.errors import InputError
from bksdm.evaluation.keeping import to_image
from bksdm.evaluation.measures.clip import load_clip
from bksdm.evaluation.measures.clip_score import ClipScore
from bksdm.evaluation.measures.inputs import CLIP_MEAN, CLIP_STD
from bksdm.evaluation.measures.weights import Place
from bksdm.evaluation.score import Score
from tests.evaluation.measures.networks import CPU, subject
from tests.evaluation.measures.transformers_folders import (
    TEXTS,
    clip_config,
    clip_folder,
    open_clip_folder,
    pictures,
    rows,
)


def score(folder: Path, batches: list[list[int]]) -> Score:
    measuring = ClipScore(name="CLIP", weights=str(folder)).begin(subject())
    for chosen in batches:
        measuring.update(rows(pictures(), chosen))
    (found,) = measuring.scores()
    return found


def direct(network: CLIPModel, folder: Path) -> np.ndarray:
    """Cosines in float64, each picture and text on its own."""
    network = network.double()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    found = []
    for text, pixels in zip(TEXTS, pictures().pixels, strict=True):
        image = to_image(pixels).resize((28, 28), Image.Resampling.BICUBIC)
        values = (np.asarray(image) / 255 - CLIP_MEAN) / CLIP_STD
        seen = network.vision_model(torch.tensor(values).permute(2, 0, 1)[None]).pooler_output
        ids = tokenizer(text).input_ids
        if len(ids) > tokenizer.model_max_length:
            ids = [*ids[: tokenizer.model_max_length - 1], tokenizer.eos_token_id]
        read = network.text_model(torch.tensor([ids])).last_hidden_state[0, -1]
        image_side = seen[0] @ network.visual_projection.weight.T
        text_side = read @ network.text_projection.weight.T
        cosine = image_side @ text_side / image_side.norm() / text_side.norm()
        found.append(float(cosine.detach()))
    return np.array(found)


def test_convolutions_are_not_rounded_to_tf32(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    clip = load_clip(Place(str(tmp_path)), CPU)
    before, seen = torch.backends.cudnn.allow_tf32, []
    clip.network.vision_model.register_forward_pre_hook(
        lambda *_: seen.append(torch.backends.cudnn.allow_tf32)
    )
    for _ in range(2):
        clip.pictures(pictures().pixels)
    assert before
    assert seen == [False, False]
    assert torch.backends.cudnn.allow_tf32


def test_it_is_the_cosine_of_picture_and_prompt(tmp_path: Path) -> None:
    network = clip_folder(tmp_path)
    found = score(tmp_path, [[0, 1, 2, 3, 4]])
    expected = direct(network, tmp_path)
    assert np.ptp(expected) > 0.03
    assert found.items is not None
    np.testing.assert_allclose(found.items.values, expected, atol=2e-6)
    assert found.value == pytest.approx(expected.mean(), abs=2e-6)
    assert found.n == 5
    assert found.details["weights_sha256"] == sha256_of(tmp_path / "model.safetensors")


def test_batches_and_order_do_not_matter(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    expected = score(tmp_path, [[0, 1, 2, 3, 4]])
    found = score(tmp_path, [[4, 0], [3], [2, 1]])
    assert expected.items is not None
    assert found.items is not None
    assert found.items.ids == expected.items.ids
    np.testing.assert_allclose(found.items.values, expected.items.values, atol=1e-6)


def test_weights_of_open_clip_give_the_same(tmp_path: Path) -> None:
    network = clip_folder(tmp_path / "a")
    open_clip_folder(tmp_path / "b", tmp_path / "a", network)
    ours, theirs = (score(tmp_path / name, [[0, 1, 2, 3, 4]]) for name in "ab")
    assert ours.items is not None
    assert theirs.items is not None
    np.testing.assert_allclose(theirs.items.values, ours.items.values, atol=1e-7)


def test_weights_that_are_not_there_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no .*expected a folder that has it"):
        ClipScore(name="CLIP", weights=str(tmp_path / "nowhere")).begin(subject())
    hub = "laion/CLIP-ViT-g-14-laion2B-s34B-b88K"
    with pytest.raises(InputError, match=rf"{hub}.*`hf download {hub}` \(5.5 GB\)"):
        ClipScore(name="CLIP", weights=hub).begin(subject())


def test_weights_of_a_part_only_are_refused(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    CLIPModel(clip_config()).vision_model.save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors: no .*text_model"):
        score(tmp_path, [])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model.safetensors: cannot be read"):
        score(tmp_path, [])


def test_another_preprocessing_is_refused(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"crop_size": 28, "size": 32}))
    with pytest.raises(InputError, match="size 32, crop_size 28"):
        score(tmp_path, [])
