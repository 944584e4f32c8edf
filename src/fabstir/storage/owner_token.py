"""The token that gives this node's owner every right: a file that only the owner can read."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from fabstir.db.files import OpenToOthers, create_private, read_secret
from fabstir.primitives.edited_text import without_mark
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
        try:
            return _read(path)
        except FileNotFoundError:
            create_private(path, secrets.token_urlsafe(_TOKEN_BYTES).encode() + b"\n")
            return _read(path)
    except OSError as exc:
        raise KeystoreError(
            f"the owner's token {path} cannot be read or made ({exc.strerror}): free disk space, "
            "or see who owns the folder"
        ) from exc


def _read(path: Path) -> str:
    try:
        token = without_mark(read_secret(path, _MAX_FILE_BYTES).decode(errors="replace")).strip()
    except OpenToOthers as exc:
        raise KeystoreError(f"{path} can be read by others: chmod 600 {path}") from exc
    if len(token) < _MIN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
        raise KeystoreError(f"{path} holds no token: delete it, and a new one is made")
    return token
