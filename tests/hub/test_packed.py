"""A packed folder on a local Hub, over real HTTP."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from bksdm.errors import InputError
from bksdm.export.license import License
from bksdm.export.pipeline import load_pipeline
from bksdm.export.pruned import export_pruned
from tests.export.test_pruned import PACKED_ONE, pruned, same, weights
from tests.hub.server import Hub


def test_a_packed_folder_on_the_hub_loads_as_here(hub: Hub, tmp_path: Path) -> None:
    pipeline, plan = pruned("sd1", "text_encoder", "unet")
    export_pruned(pipeline, tmp_path / "p", plan, settings=PACKED_ONE, license=License("mit"))
    HfApi().create_repo("user/packed")
    HfApi().upload_folder(repo_id="user/packed", folder_path=tmp_path / "p")
    assert same(weights(load_pipeline("user/packed")), weights(pipeline))
    with pytest.raises(InputError, match="user/nothing"):
        load_pipeline("user/nothing")
