"""A local Hub that the client of this process talks to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from tests.hub import client
from tests.hub.server import Hub, hub_server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub; HfApi() and from_pretrained("user/name") go to it, as "user"."""
    with hub_server() as server:
        client.use_hub(server, tmp_path / "hf-home", monkeypatch)
        yield server
        close_session()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client would have waited between attempts; nothing is waited for."""
    return client.recorded_waits(monkeypatch)


@pytest.fixture
def hub_environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Variables that let a subprocess talk to the same Hub, with a home of its own."""
    return client.hub_environment(hub, tmp_path / "hf-home-of-subprocess")
