"""The headers of TUS 1.0.0 (https://tus.io/protocols/resumable-upload), as values. No I/O."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.door.names import decode_base64url

VERSION = "1.0.0"
EXTENSIONS = "creation,termination,expiration,checksum"
CHECKSUMS = ("sha1", "sha256")
"""What Upload-Checksum may name; TUS demands sha1 of every server that has the extension."""

MAX_METADATA_BYTES = 4096
"""Longest Upload-Metadata that is taken: it is kept with the upload until it ends."""

_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_KEY = re.compile(r"[!-+\--~]{1,256}")
"""ASCII without space and comma."""


def parse_number(text: str | None, header: str) -> int:
    """A count of bytes below 2^63.

    Raises:
        RemoteProtocolError: the header is missing or no such number.
    """
    if text is None or not _NUMBER.fullmatch(text) or int(text) >= 1 << 63:
        raise RemoteProtocolError(f"{header} must be a number of bytes")
    return int(text)


def parse_metadata(header: str | None) -> dict[str, bytes]:
    """`key base64, key base64, key`.

    Raises:
        RemoteProtocolError: too long, not in this form, or a key that comes twice.
    """
    pairs: dict[str, bytes] = {}
    if header is None or not header.strip():
        return pairs
    if len(header) > MAX_METADATA_BYTES:
        raise RemoteProtocolError(f"Upload-Metadata is longer than {MAX_METADATA_BYTES} bytes")
    for item in header.split(","):
        key, _, value = item.strip(" ").partition(" ")
        if not _KEY.fullmatch(key) or key in pairs:
            raise RemoteProtocolError("Upload-Metadata has an empty, odd or repeated key")
        pairs[key] = _base64(value.strip(" "), "Upload-Metadata")
    return pairs


def parse_expected_hash(metadata: dict[str, bytes]) -> Multihash | None:
    """The entry `hash`: S5 puts the base64url of the multihash there.

    Raises:
        RemoteProtocolError: it is there and no multihash.
    """
    value = metadata.get("hash")
    if value is None:
        return None
    try:
        return Multihash.from_bytes(decode_base64url(value.decode("ascii")))
    except ValueError as error:
        raise RemoteProtocolError(f"the metadata's hash is no multihash: {error}") from error


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of one request must hash to."""

    algorithm: str
    digest: bytes

    def is_of(self, digest: bytes) -> bool:
        """Whether the computed digest is this one."""
        return digest == self.digest


def parse_checksum(header: str | None) -> Checksum | None:
    """`algorithm base64`.

    Raises:
        RemoteProtocolError: an algorithm that is not in CHECKSUMS, or a digest of another length.
    """
    if header is None:
        return None
    algorithm, _, text = header.strip(" ").partition(" ")
    if algorithm not in CHECKSUMS:
        raise RemoteProtocolError(
            f"Upload-Checksum uses {algorithm[:16]!r}; this server has {', '.join(CHECKSUMS)}"
        )
    digest = _base64(text.strip(" "), "Upload-Checksum")
    if len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise RemoteProtocolError("Upload-Checksum has a digest of another length")
    return Checksum(algorithm, digest)


def _base64(text: str, where: str) -> bytes:
    try:
        return b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, Base64Error, ValueError) as error:
        raise RemoteProtocolError(f"{where} holds something that is not base64") from error
