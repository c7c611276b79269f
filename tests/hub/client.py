"""Pointing huggingface_hub, diffusers and transformers at a local Hub, in this process or another.

huggingface_hub reads its environment when it is imported, and others copy what it read, so in this
process the copies are what has to change; all come back with the MonkeyPatch.
"""

import time
from pathlib import Path
from types import SimpleNamespace

import diffusers.loaders.lora_base as lora_base
import diffusers.models.attention_dispatch as attention_dispatch
import diffusers.utils.constants as diffusers_constants
import diffusers.utils.hub_utils as hub_utils
import huggingface_hub.file_download as file_download
import huggingface_hub.hf_api as hf_api
import huggingface_hub.utils._cache_manager as cache_manager
import huggingface_hub.utils._detect_agent as detect_agent
import huggingface_hub.utils._http as hub_http
import pytest
import transformers.utils.hub as transformers_hub
from huggingface_hub import close_session, constants

from tests.hub.server import Hub

SWITCHES = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
# All read HF_HUB_OFFLINE at import; a module first imported while it is patched would keep that.
COPIES = (constants, hub_utils, lora_base, attention_dispatch)


def hub_environment(hub: Hub, home: Path) -> dict[str, str]:
    """What a subprocess needs on top of its environment; `home` is its Hugging Face home."""
    folders = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_TOKEN_PATH": home / "token"}
    named = {name: str(folder) for name, folder in folders.items()}
    ends = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "NO_PROXY": "127.0.0.1"}
    return {**SWITCHES, **named, **ends, "TRANSFORMERS_OFFLINE": "0"}


def use_hub(hub: Hub, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Let this process talk to it, with a home and a cache of its own; close_session() after."""
    for name, value in hub_environment(hub, home).items():
        patch.setenv(name, value)
    patch.delenv("HF_OIDC_RESOURCE", raising=False)  # would go before HF_TOKEN
    values: dict[str, object] = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / "agent_harnesses.json"),
    }
    for name, setting in values.items():
        patch.setattr(constants, name, setting)
    for module in COPIES:
        patch.setattr(module, "HF_HUB_OFFLINE", False)  # is_offline_mode() reads constants'
    patch.setattr(hub_utils, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr(hub_utils, "HUGGINGFACE_CO_RESOLVE_ENDPOINT", hub.url)  # in messages only
    patch.setattr(diffusers_constants, "HUGGINGFACE_CO_RESOLVE_ENDPOINT", hub.url)
    patch.setattr(cache_manager, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(detect_agent, "_registry", {"standardEnvVars": [], "harnesses": {}})
    patch.setattr(hf_api.api, "endpoint", hub.url)  # behind model_info(), create_repo() and so on
    patch.setattr(hf_api.api, "_whoami_cache", {})
    patch.setattr(transformers_hub, "_hf_api", None)  # made, with its endpoint, at first use
    close_session()  # keeps connections


def recorded_waits(patch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have slept between its attempts; it goes on at once."""
    waits: list[float] = []
    clock = SimpleNamespace(**{**vars(time), "sleep": waits.append})
    patch.setattr(hub_http, "time", clock)
    patch.setattr(file_download, "time", clock)
    return waits
