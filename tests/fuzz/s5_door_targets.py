"""What the doors of the S5 node read from headers, URLs and forms (see `targets`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from tests.s5_trees import drive

from fabstir.primitives.errors import PathRefused, RemoteProtocolError
from fabstir.s5.door.bodies import stream_file
from fabstir.s5.door.names import decode_path, encode_base64url, parse_blob_name
from fabstir.s5.door.ranges import (
    ByteRange,
    allows_range,
    parse_condition,
    parse_range,
)
from fabstir.s5.door.tus_headers import (
    parse_checksum,
    parse_expected_hash,
    parse_metadata,
    parse_number,
)
from fabstir.s5.formats.limits import MAX_PATH_BYTES

Target = Callable[[bytes], None]

SIZE: Final = 1000
BOUNDARY: Final = "edge"


def s5_range(data: bytes) -> None:
    """Range and the conditions beside it, as the server hands them on: Latin-1."""
    text = data.decode("latin-1")
    part = parse_range(text, SIZE)
    if isinstance(part, ByteRange):
        assert 0 <= part.start < part.end <= SIZE
        again = parse_range(f"bytes={part.start}-{part.end - 1}", SIZE)
        assert again == part
    condition = parse_condition(text)
    assert condition is not None
    condition.names(lambda tag: tag == "a", is_strong=False)
    allows_range(text, lambda tag: tag == "a")


def s5_tus_headers(data: bytes) -> None:
    """Upload-Metadata with its hash, Upload-Checksum, Upload-Offset."""
    text = data.decode("latin-1")
    with suppress(RemoteProtocolError):
        parse_expected_hash(parse_metadata(text))
    with suppress(RemoteProtocolError):
        parse_checksum(text)
    with suppress(RemoteProtocolError):
        assert 0 <= parse_number(text, "Upload-Offset") < 1 << 63


def s5_url_path(data: bytes) -> None:
    """The path behind /s5/fs: what is read has one spelling that is read the same."""
    with suppress(PathRefused):
        path = decode_path(data)
        assert len(path.encode()) <= MAX_PATH_BYTES
        assert decode_path("/".join(map(_quoted, path.split("/"))).encode()) == path


def _quoted(segment: str) -> str:
    return quote(segment, safe="")


def s5_blob_name(data: bytes) -> None:
    """A blob in a URL."""
    with suppress(RemoteProtocolError):
        name = parse_blob_name(data.decode("latin-1"))
        again = parse_blob_name(encode_base64url(name.hash.to_bytes()))
        assert again.hash == name.hash


def s5_form(data: bytes) -> None:
    """A form, in two pieces cut anywhere: the same file comes out, or the same refusal."""
    cut = data[0] if data else 0
    assert _file_in(data[1:], cut) == _file_in(data[1:], 0)


def _file_in(body: bytes, cut: int) -> bytes | None:
    scope = {
        "type": "http",
        "headers": [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())],
    }

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (body[:cut], body[cut:]):
            if piece:
                yield piece

    async def read() -> bytes:
        return b"".join([piece async for piece in stream_file(Request(scope), pieces())])

    try:
        return drive(read())
    except RemoteProtocolError:
        return None


S5_DOOR_TARGETS: Final[dict[str, Target]] = {
    "s5_blob_name": s5_blob_name,
    "s5_form": s5_form,
    "s5_range": s5_range,
    "s5_tus_headers": s5_tus_headers,
    "s5_url_path": s5_url_path,
}
