"""The SHA-256 of a file's bytes."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """In hexadecimal digits, as `sha256sum` prints it; the file need not fit in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
