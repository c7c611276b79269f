"""Where shards live: patterns to an ordered list of locations, and names made from a location.

A location is a local path, an address that fsspec knows (`https://`, `s3://`, `hf://`, ...), or
`pipe:` and a shell command whose output is the shard. Reads nothing; only globs ask a store.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import braceexpand

from bksdm.data.filesystems import PIPE, filesystem, is_web, protocol, shown
from bksdm.data.remote import matches
from bksdm.errors import InputError

_TAR: Final = re.compile(r"[^\s/'\"=]+\.tar(?![\w.])")
_REMEDY: Final = "name yours as 'folder/*.tar', or make the embedded world's with `bksdm prepare`"


def expand(pattern: str | Sequence[str], *, allow_pipe: bool) -> list[str]:
    """Locations that a pattern (braces, globs), or several, stand for: braces in their own order,
    each glob sorted.

    Raises:
        InputError: a pattern matches nothing, a named local shard is missing, a glob over http(s),
            an unknown protocol, its package missing, or a pipe where none is allowed.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    other = next((item for item in patterns if not isinstance(item, str)), None)
    if other is not None:
        raise InputError(f"shards are named {other!r}; expected a pattern, or a list of them")
    if not patterns:
        raise InputError(f"no shards are named; {_REMEDY}")
    return [
        location
        for item in patterns
        for single in _braces(item)
        for location in _expand_one(single, allow_pipe=allow_pipe)
    ]


def is_remote(location: str) -> bool:
    """Whether a shard has to be fetched before it can be read at any place."""
    return protocol(location) != ""


def local_path(location: str) -> Path:
    """A local location as a path, `~` and `file://` resolved."""
    return Path(re.sub(r"^(file|local)://", "", location)).expanduser()


def base_name(location: str) -> str:
    """File name of a location without query; of a pipe the last word that ends in .tar; else a
    short hash.
    """
    if protocol(location) == "pipe":
        words = _TAR.findall(location)
        name = words[-1] if words else ""
    else:
        path = urlsplit(location).path if is_web(location) else location
        name = path.rpartition("/")[2]
    return name or hashlib.sha256(location.encode()).hexdigest()[:12]


def sibling(location: str, name: str) -> str:
    """Another file in the same folder; the query of a web address is kept.

    Raises:
        InputError: a pipe, which has no folder.
    """
    if protocol(location) == "pipe":
        raise InputError(f"{location} is a command: it has no folder in which {name} could be")
    if is_web(location):
        parts = urlsplit(location)
        return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{name}").geturl()
    folder, slash, _ = location.rpartition("/")
    return f"{folder}{slash}{name}"


def _braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand.braceexpand(pattern)) if "{" in pattern else [pattern]
    except ValueError as error:
        raise InputError(f"braces in {shown(pattern)} do not match; close them") from error


def _expand_one(pattern: str, *, allow_pipe: bool) -> list[str]:
    kind = protocol(pattern)
    if kind == "":
        return _local(pattern)
    if kind == "pipe":
        if not allow_pipe:
            raise InputError(
                f"{pattern} runs a shell command with your rights; cache.allow_pipe=true"
                " (in train: data.cache.allow_pipe) allows it"
            )
        if not pattern.removeprefix(PIPE).strip():
            raise InputError(f"{pattern!r} names no command; write one after the colon")
        return [pattern]
    filesystem(pattern)  # an unknown protocol is said here, not by the first worker that reads
    if is_web(pattern):
        if "*" in pattern:
            raise InputError(
                f"{shown(pattern)}: a web server cannot be searched with *; name the shards with"
                " braces, as in {00000..00099}.tar"
            )
        return [pattern]
    found = matches(pattern) if has_magic(pattern) else [pattern]
    if not found:
        raise InputError(f"no shard at {shown(pattern)}; check bucket and pattern")
    return found


def _local(pattern: str) -> list[str]:
    path = local_path(pattern)
    if path.is_file():
        return [str(path)]
    found = sorted(glob(str(path))) if has_magic(str(path)) else []
    if not found:
        raise InputError(f"no shard at {path}; {_REMEDY}")
    other = next((name for name in found if not os.path.isfile(name)), None)
    if other is not None:
        kind = "a folder" if Path(other).is_dir() else "a link to nothing"
        raise InputError(f"{other} is {kind}, no shard; name the shards so that it is left out")
    return found
