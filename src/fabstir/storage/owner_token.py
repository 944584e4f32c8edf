"""The token that gives this node's owner every right: a file that only the owner can read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from fabstir.db.files import create_private
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
        create_private(path, secrets.token_urlsafe(_TOKEN_BYTES).encode() + b"\n")
        return _read(path)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise KeystoreError(f"{path} can be read by others: chmod 600 {path}")
        token = file.read(_MAX_FILE_BYTES).decode("ascii", "replace").strip()
    if len(token) < _MIN_CHARS or not token.isprintable() or " " in token:
        raise KeystoreError(f"{path} holds no token: delete it, and a new one is made")
    return token
