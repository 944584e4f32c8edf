"""Every decoder of S5's formats that meets a stranger's bytes (see `targets`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Final

from tests.fuzz.s5_key_targets import S5_KEY_TARGETS
from tests.fuzz.s5_portal_targets import S5_PORTAL_TARGETS
from tests.s5_trees import Blobs, drive, listed, lookup

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.cbor import decode_cbor, encode_canonical, encode_s5js
from fabstir.s5.formats.dialects import decode_directory, encode_directory
from fabstir.s5.formats.directory import DirectoryDialect
from fabstir.s5.formats.hamt import build, update
from fabstir.s5.formats.limits import MAX_MUTABLE_BYTES
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.store.archive import ArchiveReader, ArchiveWriter

Target = Callable[[bytes], None]


def s5_cbor(data: bytes) -> None:
    """Any CBOR; what is read is the same after either writer."""
    try:
        value = decode_cbor(data, max_bytes=MAX_MUTABLE_BYTES)
    except RemoteProtocolError:
        return
    for write in (encode_canonical, encode_s5js):
        again = decode_cbor(write(value), max_bytes=10 * MAX_MUTABLE_BYTES)
        # As bytes, because NaN is not equal to itself.
        assert write(again) == write(value)
        assert encode_canonical(again) == encode_canonical(value)


def s5_directory(data: bytes) -> None:
    """A directory in any dialect; nothing of it is lost in either of ours."""
    try:
        directory = decode_directory(data)
    except RemoteProtocolError:
        return
    canonical = encode_directory(directory, DirectoryDialect.CANONICAL)
    for dialect in DirectoryDialect:
        again = decode_directory(encode_directory(directory, dialect))
        assert encode_directory(again, DirectoryDialect.CANONICAL) == canonical


def s5_hamt(data: bytes) -> None:
    """A tree of two blobs: the root and, whatever the hash, one node below it.

    What can be listed whole can be looked up, deleted and built anew.
    """
    root, _, below = data.partition(b"<node>")

    async def load(link: bytes) -> bytes:
        return root if link == _ROOT else below

    try:
        found = dict(drive(listed(_ROOT, load)))
    except RemoteProtocolError:
        return
    for key in found:
        assert drive(lookup(_ROOT, key, load, NATIVE)) is not None
    for dialect in DirectoryDialect:
        blobs = Blobs()
        built = drive(build(found, blobs.store, NATIVE, dialect=dialect))
        assert dict(drive(listed(built.root, blobs.load))).keys() == found.keys()
        deleted = dict.fromkeys(found)
        empty = drive(update(_ROOT, deleted, load, blobs.store, NATIVE, dialect=dialect))
        assert empty.num_entries == 0
        assert not found or drive(listed(empty.root, blobs.load)) == []


def s5_archive(data: bytes) -> None:
    """An archive of blobs and entries; one that is whole is written the same."""
    written = BytesIO()
    reader, writer = ArchiveReader(BytesIO(data).read, NATIVE), ArchiveWriter(written)
    with suppress(RemoteProtocolError):
        reader.begin()
        while part := reader.next_part():
            if isinstance(part, SignedEntry):
                writer.add_entry(part)
                continue
            writer.begin_blob(part)
            while piece := reader.next_piece():
                writer.write(piece)
            writer.end_blob(part)
        writer.end()
        assert written.getvalue() == data


_ROOT: Final = bytes(32)

S5_TARGETS: Final[dict[str, Target]] = {
    **S5_KEY_TARGETS,
    **S5_PORTAL_TARGETS,
    "s5_archive": s5_archive,
    "s5_cbor": s5_cbor,
    "s5_directory": s5_directory,
    "s5_hamt": s5_hamt,
}
