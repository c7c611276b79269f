from pathlib import Path

import pytest
from huggingface_hub import constants

from bksdm.errors import InputError
from bksdm.evaluation.measures.weights import TRANSFORMERS, Place, read_state


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without a network, a repository of which one file was downloaded."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--clip"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    file = repository / "snapshots" / ("0" * 40) / "pytorch_model.bin"
    file.parent.mkdir(parents=True)
    file.write_text("weights")
    return file


def test_of_several_names_the_one_in_the_cache_is_found(cached: Path) -> None:
    assert Place("some/clip").find(*TRANSFORMERS) == cached


def test_what_is_neither_cached_nor_to_be_had_is_said_with_the_remedy(cached: Path) -> None:
    del cached
    with pytest.raises(InputError, match=r"weights some/clip@v2: .*`hf download some/clip`"):
        Place("some/clip", "v2").find(*TRANSFORMERS)


def test_a_folder_without_the_file_names_both(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model.safetensors or pytorch_model.bin there"):
        Place(str(tmp_path)).find(*TRANSFORMERS)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"cos\nsystem\n(S'touch touched'\ntR.")
    with pytest.raises(InputError, match=r"a.pt: cannot be read as weights"):
        read_state(tmp_path / "a.pt")
