"""The two secrets of a node's folder, in files that only its owner can read."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fabstir.db.files import OpenToOthers, create_private, read_secret
from fabstir.primitives.edited_text import without_mark
from fabstir.primitives.errors import KeystoreError

OWNER_TOKEN_FILE: Final = "owner.token"  # noqa: S105 - a file's name
"""Its name in the node's folder."""

NODE_KEY_FILE: Final = "node.key"

_TOKEN_BYTES = 32
_MIN_TOKEN_CHARS = 32
_KEY_BYTES = 32
_MAX_FILE_BYTES = 4096


def load_owner_token(folder: Path) -> str:
    """Read the token that gives this node's owner every right, and make one the first time.

    Raises:
        KeystoreError: others can read the file, or what it holds is too short to be a secret.
    """
    path = folder / OWNER_TOKEN_FILE
    token = _load(path, lambda: secrets.token_urlsafe(_TOKEN_BYTES))
    is_printed = token.isascii() and token.isprintable() and " " not in token
    if len(token) < _MIN_TOKEN_CHARS or not is_printed:
        raise KeystoreError(f"{path} holds no token: delete it, and a new one is made")
    return token


def load_node_key(folder: Path) -> bytes:
    """Read the ed25519 seed by which peers know this node, and make one the first time.

    Not derived from the identity: the machines of one identity are nodes of each other's, and a
    node that meets its own key takes the other end for itself. It signs whatever challenge a
    stranger sends, so it signs nothing else.

    Raises:
        KeystoreError: others can read the file, or it holds no key.
    """
    path = folder / NODE_KEY_FILE
    text = _load(path, lambda: secrets.token_hex(_KEY_BYTES))
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * _KEY_BYTES}}}", text):
        raise KeystoreError(
            f"{path} does not hold {2 * _KEY_BYTES} hex digits: delete it, and a new key is made, "
            "which the s5.peers of others may have to be told"
        )
    return bytes.fromhex(text)


def _load(path: Path, make: Callable[[], str]) -> str:
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            create_private(path, make().encode() + b"\n")
            return _read(path)
    except OpenToOthers as exc:
        raise KeystoreError(f"{path} can be read by others: chmod 600 {path}") from exc
    except OSError as exc:
        raise KeystoreError(
            f"{path} cannot be read or made ({exc.strerror}): free disk space, or see who owns the "
            "folder"
        ) from exc


def _read(path: Path) -> str:
    return without_mark(read_secret(path, _MAX_FILE_BYTES).decode(errors="replace")).strip()
