"""What callers of the file system send: paths, cursors and capabilities."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import PathRefused, RemoteProtocolError
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATH_DEPTH
from fabstir.s5.fs.cursors import decode_cursor, encode_cursor
from fabstir.s5.fs.paths import format_path, look_of, parse_path


def s5_path(data: bytes) -> None:
    """Paths: what is taken apart is put together again, inside the limits."""
    with suppress(PathRefused):
        segments = parse_path(data.decode("utf-8", "surrogateescape"))
        assert parse_path(format_path(segments)) == segments
        assert len(segments) <= MAX_PATH_DEPTH
        assert len(format_path(segments).encode()) <= MAX_PATH_BYTES
        for name in segments:
            assert name not in {"", ".", ".."}
            assert "/" not in name
            assert name.isprintable() or not name.isascii()
            assert len(name.encode()) <= MAX_NAME_BYTES
            assert look_of(look_of(name)) == look_of(name)


def s5_cursor(data: bytes) -> None:
    """Cursors of lists in either order."""
    text = data.decode("utf-8", "replace")
    for is_sharded in (False, True):
        with suppress(PathRefused):
            key = decode_cursor(text, is_sharded=is_sharded)
            again = encode_cursor(key, is_sharded=is_sharded)
            assert decode_cursor(again, is_sharded=is_sharded) == key


def s5_capability(data: bytes) -> None:
    """The text that somebody was given."""
    with suppress(RemoteProtocolError):
        capability = Capability.decode(data.decode("utf-8", "replace"), NATIVE)
        assert Capability.decode(capability.encode(), NATIVE) == capability


S5_PATH_TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "s5_capability": s5_capability,
    "s5_cursor": s5_cursor,
    "s5_path": s5_path,
}
