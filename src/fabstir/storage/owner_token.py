"""The token that gives this node's owner every right: a file that only the owner can read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from fabstir.primitives.errors import KeystoreError

OWNER_TOKEN_FILE: Final = "owner.token"  # noqa: S105 - a file's name
"""Its name in the node's folder."""

_TOKEN_BYTES = 32
_MIN_CHARS = 32
_MAX_FILE_BYTES = 4096


def load_owner_token(folder: Path) -> str:
    """Read the token, and make one the first time.

    Raises:
        KeystoreError: others can read the file, or what it holds is too short to be a secret.
    """
    path = folder / OWNER_TOKEN_FILE
    try:
        return _read(path)
    except FileNotFoundError:
        _write(path)
        return _read(path)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise KeystoreError(f"{path} can be read by others: chmod 600 {path}")
        token = file.read(_MAX_FILE_BYTES).decode("ascii", "replace").strip()
    if len(token) < _MIN_CHARS or not token.isprintable() or " " in token:
        raise KeystoreError(f"{path} holds no token: delete it, and a new one is made")
    return token


def _write(path: Path) -> None:
    """Beside, flushed, then renamed, so that a crash leaves no half token behind.

    Only the process that holds the node's store makes one, so there is no race for the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_urlsafe(_TOKEN_BYTES).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
