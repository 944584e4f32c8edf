"""Opening what somebody shared."""

from __future__ import annotations

import secrets

from fabstir.primitives.errors import AccessDenied, RemoteProtocolError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.directory import DirectoryDialect
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.fs.directories import Directories
from fabstir.s5.fs.tree import ReadOnlyTree
from fabstir.s5.ports import Blobs, EntryRegistry

_CACHE_BYTES = 8 << 20


def open_tree(
    capability: str,
    blobs: Blobs,
    registry: EntryRegistry,
    crypto: Crypto,
    *,
    cache_bytes: int = _CACHE_BYTES,
) -> ReadOnlyTree:
    """A directory that somebody shared, or a snapshot, for reading.

    Args:
        capability: a directory CID, `fs5://CID`, or one with a write key, which is not used.

    Raises:
        AccessDenied: the text is no capability.
    """
    try:
        cid = Capability.decode(capability, crypto).cid
    except RemoteProtocolError as exc:
        raise AccessDenied(f"this text opens no directory: {exc}") from exc
    directories = Directories(
        blobs,
        registry,
        crypto,
        random=secrets.token_bytes,
        dialect=DirectoryDialect.CANONICAL,
        label=f"fs:{cid.link[:4].hex()}",
        cache_bytes=cache_bytes,
    )
    return ReadOnlyTree(directories, Capability(cid))
