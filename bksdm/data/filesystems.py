"""Which fsspec file system a location belongs to: one instance a process, caching off.

Knows protocols and the packages they need. Moves no bytes.
"""

import os
import re
import threading
from typing import Any, Final
from urllib.parse import urlsplit

import fsspec
import fsspec.asyn
from aiohttp import ClientTimeout
from fsspec.registry import known_implementations

from bksdm.errors import InputError

PIPE: Final = "pipe:"
_PROTOCOL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://")
_WEB: Final = ("http", "https")
_S3: Final = ("s3", "s3a")
_BUNDLED: Final = {"s3": "bksdm[s3]", "s3a": "bksdm[s3]"}
_STALLED_S: Final = 60  # without a byte; a whole shard may take as long as it likes

_instances: dict[tuple[int, str, str], Any] = {}
_lock = threading.Lock()


def protocol(location: str) -> str:
    """`https`, `s3`, `hf`, ... of a location; `pipe` for a command; empty for a local path."""
    if "://" not in location:  # of 100,000 shards this is asked a million times
        return "pipe" if location.startswith(PIPE) else ""
    if location.startswith(PIPE):
        return "pipe"
    match = _PROTOCOL.match(location)
    return "" if match is None or match[1] in ("file", "local") else match[1]


def is_web(location: str) -> bool:
    """Whether a location is an http(s) address."""
    return protocol(location) in _WEB


def shown(location: str) -> str:
    """A location as messages show it: a web address without its password and its query, which may
    be a signature.
    """
    if not is_web(location):
        return location
    parts = urlsplit(location)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def filesystem(location: str) -> tuple[Any, str]:
    """The fsspec file system of a location, made in this process, and the path inside it.

    Raises:
        InputError: an unknown protocol, or its package is not installed.
    """
    name = protocol(location)
    try:
        kind = fsspec.get_filesystem_class(name or "file")
    except (ImportError, ValueError) as error:
        raise InputError(_not_available(location, error)) from error
    path = str(kind._strip_protocol(location))  # noqa: SLF001 - fsspec's documented extension point
    # A forked worker must not use its parent's sessions, nor drop them: closing waits for a thread
    # that only the parent has. So the parent's stay in the table, under the parent's process id.
    key = (os.getpid(), name, urlsplit(location).netloc if name else "")
    with _lock:
        if key not in _instances:
            # `_get_kwargs_from_urls` takes the host, port and user out of sftp:// and the like.
            found = kind._get_kwargs_from_urls(location)  # noqa: SLF001
            _instances[key] = kind(skip_instance_cache=True, **_options(name), **found)
        return _instances[key], path


def _options(name: str) -> dict[str, Any]:
    if name in _WEB:
        timeout = ClientTimeout(total=None, sock_connect=30, sock_read=_STALLED_S)
        return {
            "client_kwargs": {"timeout": timeout, "trust_env": True},
            # Bytes of a compressed answer cannot be counted against the object's size.
            "headers": {"Accept-Encoding": "identity"},
        }
    if name in _S3:
        return {"use_listings_cache": False, "default_cache_type": "none"}
    return {}


def _not_available(location: str, error: Exception) -> str:
    name = protocol(location)
    if name not in known_implementations:
        return (
            f"{shown(location)}: unknown protocol {name}://; expected a path, https://, s3://,"
            " hf:// or another that fsspec knows"
        )
    missing = getattr(error.__cause__ or error, "name", None)
    package = _BUNDLED.get(name) or missing or known_implementations[name]["class"].split(".")[0]
    return f"{shown(location)}: {name}:// needs a package; install it with pip install '{package}'"


def _forget_locks() -> None:
    global _lock
    _lock = threading.Lock()
    fsspec.asyn.reset_lock()  # fsspec's own hook forgets its loop but not this lock


os.register_at_fork(after_in_child=_forget_locks)
