"""What a command's argument names: a blob, a path of the node's files, or one in a share.

Capabilities are secrets: they are taken apart here, and no error repeats one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import PathRefused, RemoteProtocolError
from fabstir.s5.formats.directory_cid import Capability

_BASES: Final = ("b", "f", "u", "z")
"""Multibase letters with which identifiers are written."""

_SCHEME: Final = "fs5://"
_SEALED: Final = "blvpk"
"""Begins every capability of an encrypted directory as `share` prints it."""

_BLOB: Final = "blobb"
"""Begins every identifier of a blob as commands print it."""

_MIN_CUT_CHARS: Final = 40
"""Nobody calls a file by so many characters of that kind: it is an identifier that lost some."""


@dataclass(frozen=True, slots=True)
class SharedPath:
    """A path in a directory that somebody shared."""

    capability: str = field(repr=False)
    path: str


S5Target = BlobId | SharedPath | str
"""A text is a path of the node's own files."""


def parse_target(text: str) -> S5Target:
    """A blob's identifier, a capability with or without a path behind it, else a path.

    A path that is also one of the others is taken for the other; with a slash before it, it is a
    path.

    Raises:
        PathRefused: it was to be a capability or an identifier, and is none.
    """
    first, slash, rest = text.removeprefix(_SCHEME).partition("/")
    if text.startswith(_SCHEME):
        first = _SCHEME + first
        if not _is_capability(first):
            raise PathRefused("what stands behind fs5:// is no capability of a shared directory")
        return SharedPath(first, rest)
    if not text.startswith(_BASES):
        return text
    if _is_capability(first):
        return SharedPath(first, rest)
    if first.startswith(_SEALED) and len(first) >= _MIN_CUT_CHARS:
        raise PathRefused(
            "this begins as the capability of a shared directory and is none: it is cut or "
            "mistyped (of a path that is called so, write /PATH)"
        )
    if slash:
        return text
    blob = _blob_of(text)
    if blob is None and text.startswith(_BLOB) and len(text) >= _MIN_CUT_CHARS:
        raise PathRefused(
            f"{text[:80]!a} begins as a blob's identifier and is none: it is cut or mistyped (of a "
            "path that is called so, write /PATH)"
        )
    return text if blob is None else blob


def own_path(text: str) -> str:
    """A path of the node's own files, and nothing else.

    Raises:
        PathRefused: it is a blob's identifier or somebody's capability.
    """
    match parse_target(text):
        case BlobId():
            raise PathRefused(
                f"{text[:80]!a} is a blob's identifier, and this takes a path of your files (of a "
                "path that is called so, write /PATH)"
            )
        case SharedPath():
            raise PathRefused(
                "a capability is read with `fabstir s5 ls` and `get`; to use the directory as one "
                "of your own, give it a path with `fabstir s5 mount PATH CAPABILITY`"
            )
        case path:
            return path


def require_blob(text: str) -> BlobId:
    """
    Raises:
        RemoteProtocolError, PathRefused: it is no blob's identifier.
    """
    try:
        return BlobId.decode(text)
    except ValueError as error:
        if isinstance(parse_target(text), SharedPath):
            raise RemoteProtocolError("this is a directory's capability, not a blob") from None
        raise RemoteProtocolError(
            f"{text[:80]!a} is no blob's identifier, as the blobb... that `fabstir s5 ls` shows: "
            f"{error}"
        ) from error


def _blob_of(text: str) -> BlobId | None:
    try:
        return BlobId.decode(text)
    except ValueError:
        return None


def _is_capability(text: str) -> bool:
    try:
        Capability.decode(text, NATIVE)
    except RemoteProtocolError:
        return False
    return True
