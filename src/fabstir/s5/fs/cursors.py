"""List cursors: opaque text for the caller, a key and a sort order for us."""

from __future__ import annotations

import base64
import binascii

from fabstir.primitives.errors import PathRefused
from fabstir.s5.formats.limits import MAX_NAME_BYTES

_BY_NAME, _BY_HASH = b"n", b"h"
_MAX_CHARS = (MAX_NAME_BYTES + 3) * 4 // 3 + 4


def encode_cursor(key: str, *, is_sharded: bool) -> str:
    """The cursor of the page behind an entry."""
    raw = (_BY_HASH if is_sharded else _BY_NAME) + key.encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_cursor(cursor: str, *, is_sharded: bool) -> str:
    """The key behind which the page begins.

    Raises:
        PathRefused: not a cursor, or of a directory in another order.
    """
    if len(cursor) > _MAX_CHARS or not cursor.isascii():
        raise PathRefused("this is no cursor of a list")
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = raw[1:].decode()
    except (binascii.Error, ValueError) as exc:
        raise PathRefused("this is no cursor of a list") from exc
    if raw[:1] not in {_BY_NAME, _BY_HASH} or key[:2] not in {"f:", "d:"}:
        raise PathRefused("this is no cursor of a list")
    if (raw[:1] == _BY_HASH) != is_sharded:
        raise PathRefused(
            "the directory has grown into a HAMT since this cursor was given out, and is in "
            "another order now: list it from the beginning"
        )
    return key
