"""Who wrote a directory, so that nobody else can decide which of our blobs are deleted.

Whoever may write a directory can name any blob in it: another directory's, a private file's, twelve
of them as history. So what a version no longer names is released at once only if this tree wrote
that version and all before it. Each version that we write says so in its header, with a mark that
takes a key which the root's writers alone have, and that is good for one link, one revision and
these bytes only. What somebody else wrote, and what we wrote over it, is left to `vacuum`, which
looks at the whole tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Final

from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.cbor import encode_canonical, encode_text
from fabstir.s5.formats.derivation import derive_str
from fabstir.s5.formats.dialects import Encoded
from fabstir.s5.formats.directory import Cbor, Directory
from fabstir.s5.fs.values import OWN_PREFIX

MARK: Final = f"{OWN_PREFIX}own"
"""In a directory's header: one byte that says which authorship, and 16 of a keyed hash."""

_MARKING: Final = b"\0authorship"
"""Derives the marks' key from the root's. No name begins with NUL, so no child has this key."""

_HASH_BYTES: Final = 16
_BLANK: Final = bytes(1 + _HASH_BYTES)


class Authorship(Enum):
    """Who wrote a version of a directory."""

    OTHERS = 0
    MIXED = 1
    """We did, over what somebody else wrote."""
    OURS = 2
    """We did, and all versions before it."""


class Author:
    """Marks what this tree writes, and knows it again.

    Args:
        write_key: the root's.
    """

    def __init__(self, write_key: bytes, crypto: Crypto) -> None:
        self._key = derive_str(write_key, _MARKING, crypto)
        self._crypto = crypto

    def mark(
        self, encoded: Encoded, link: bytes, revision: int, authorship: Authorship
    ) -> tuple[Encoded, bytes]:
        """The bytes of a directory whose header is `blank_header`'s, and the mark in them."""
        content = self._crypto.blake3(encoded.data)
        mark = self._mark(content, link, revision, authorship)
        data = encoded.data.replace(_field(_BLANK), _field(mark), 1)
        return replace(encoded, data=data), mark

    def recognize(
        self, header: Mapping[Cbor, Cbor], content: bytes, link: bytes, revision: int
    ) -> Authorship:
        """Who wrote a version.

        Args:
            content: `content_hash` of its bytes.
        """
        found = header.get(MARK)
        for authorship in (Authorship.OURS, Authorship.MIXED):
            if content and found == self._mark(content, link, revision, authorship):
                return authorship
        return Authorship.OTHERS

    def _mark(self, content: bytes, link: bytes, revision: int, authorship: Authorship) -> bytes:
        said = bytes((authorship.value,))
        of = self._key + link + revision.to_bytes(8, "big") + said + content
        return said + self._crypto.blake3(of)[:_HASH_BYTES]


def blank_header(header: Mapping[Cbor, Cbor]) -> dict[Cbor, Cbor]:
    """A header that `Author.mark` can write into."""
    return {**header, MARK: _BLANK}


def unmarked(directory: Directory) -> Directory:
    """The same directory without a mark, for what becomes of it elsewhere."""
    header = {key: value for key, value in directory.header.items() if key != MARK}
    return replace(directory, header=header)


def content_hash(data: bytes, header: Mapping[Cbor, Cbor], crypto: Crypto) -> bytes:
    """What a mark is made of: BLAKE3 of a directory's bytes with a blank mark; b"": it has none."""
    mark = header.get(MARK)
    if not isinstance(mark, bytes) or len(mark) != len(_BLANK):
        return b""
    return crypto.blake3(data.replace(_field(mark), _field(_BLANK), 1))


def _field(mark: bytes) -> bytes:
    return encode_text(MARK) + encode_canonical(mark)
