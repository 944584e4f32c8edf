"""Blob names and file paths in URLs, decoded once and strictly.

Nothing here does I/O. Whatever the text, one error comes out of each function.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.encoding import decode_multibase
from fabstir.primitives.errors import PathRefused, RemoteProtocolError
from fabstir.s5.formats.limits import MAX_PATH_BYTES, MAX_PATH_DEPTH

_MULTIHASH_CHARS = 44
"""33 bytes in base64url: lib5 writes bare hashes so, without a multibase letter."""

_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class BlobName:
    """A blob as a client names it.

    Attributes:
        size: None: the name is a bare hash.
    """

    hash: Multihash
    size: int | None

    def is_of(self, blob: BlobId) -> bool:
        """Whether this names `blob`."""
        return self.hash == blob.multihash and self.size in {None, blob.size}


def parse_blob_name(text: str) -> BlobName:
    """A blob identifier in any of the four encodings, or a bare hash.

    Bare hashes are 32 bytes (BLAKE3) or 33 (with the type) in multibase, which S5.js writes with
    53 characters, or 33 in base64url.

    Raises:
        RemoteProtocolError: it is none of them.
    """
    try:
        return _parse(text)
    except ValueError as error:
        raise RemoteProtocolError(
            f"{text[:80]!r} is not a blob identifier: {error}", code="INVALID_CID"
        ) from error


def _parse(text: str) -> BlobName:
    # Hashes begin with 12, 1e or 1f, so in base64url with E or H: no multibase letter.
    if len(text) == _MULTIHASH_CHARS and text[0] in "EH":
        return BlobName(Multihash.from_bytes(decode_base64url(text)), None)
    raw = decode_multibase(text)
    if len(raw) == 32:
        return BlobName(Multihash(raw), None)
    if len(raw) == 33:
        return BlobName(Multihash.from_bytes(raw), None)
    blob = BlobId.from_bytes(raw)
    return BlobName(blob.multihash, blob.size)


def decode_base64url(text: str) -> bytes:
    """Without padding, one text a value.

    Raises:
        ValueError: letters of another alphabet, or left-over bits.
    """
    raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if urlsafe_b64encode(raw).rstrip(b"=") != text.encode("ascii"):
        raise ValueError("it is not base64url without padding")
    return raw


def encode_base64url(data: bytes) -> str:
    """Without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_path(raw: bytes) -> str:
    """The path of a file from the bytes behind `/s5/fs/`, percent-decoded once.

    The server's own decoding replaces what is not UTF-8 and makes `%2F` a separator, so that one
    file would have many URLs and one URL many files; here each segment is decoded by itself.
    Whether the names are allowed is the file system's to say; what would make a name more than
    one segment, or none, is refused here.

    Returns:
        "" for the root, else segments joined by "/".

    Raises:
        PathRefused: a bad escape, no UTF-8, an encoded separator, an empty segment, `.` or `..`,
            NUL, or too long.
    """
    if len(raw) > 3 * MAX_PATH_BYTES:
        raise PathRefused(f"the path is longer than {MAX_PATH_BYTES} bytes")
    if not raw:
        return ""
    segments = raw.split(b"/")
    if len(segments) > MAX_PATH_DEPTH:
        raise PathRefused(f"the path has more than {MAX_PATH_DEPTH} segments")
    path = "/".join(_decode_segment(segment) for segment in segments)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise PathRefused(f"the path is longer than {MAX_PATH_BYTES} bytes")
    return path


def _decode_segment(segment: bytes) -> str:
    if segment.count(b"%") != len(_PERCENT.findall(segment)):
        raise PathRefused("a % in the path is not followed by two hex digits")
    raw = _PERCENT.sub(lambda match: bytes([int(match[1], 16)]), segment)
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise PathRefused("the path is not UTF-8") from None
    if not name:
        raise PathRefused("the path has an empty segment")
    if name in {".", ".."}:
        raise PathRefused(f"the path has the segment {name!r}: write the path without it")
    if "/" in name or "\0" in name:
        raise PathRefused("a name holds an encoded separator or NUL")
    return name
