"""Evaluations and their page."""

from pathlib import Path

import pytest

from bksdm.evaluation.page.page import page
from bksdm.evaluation.page.sources import sources
from tests.evaluation.page.world import write_hostile, write_published, write_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of the teacher, Base, Small and Tiny of the embedded world."""
    return write_shapes(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="session")
def everything(shapes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same, and two models under the published protocol."""
    published = write_published(tmp_path_factory.mktemp("published"))
    return [str(folder) for folder in (*shapes, *published)]


@pytest.fixture(scope="session")
def html(everything: list[str]) -> str:
    """The page of all of them."""
    return page(sources(everything))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of models, scores, prompts and settings with markup for names."""
    return page(sources([str(write_hostile(tmp_path_factory.mktemp("hostile")))]))
