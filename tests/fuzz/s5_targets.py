"""Every decoder of S5's formats that meets a stranger's bytes (see `targets`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from io import BytesIO
from typing import Final

from tests.fuzz.s5_key_targets import S5_KEY_TARGETS

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.s5.cbor import decode_cbor, encode_canonical, encode_s5js
from fabstir.protocol.s5.dialects import decode_directory, encode_directory
from fabstir.protocol.s5.directory import Dialect
from fabstir.protocol.s5.hamt import entries, lookup, update
from fabstir.protocol.s5.hamt_nodes import read_root
from fabstir.protocol.s5.limits import MAX_MUTABLE_BYTES
from fabstir.storage.store.archive import ArchiveReader, ArchiveWriter

Target = Callable[[bytes], None]


def s5_cbor(data: bytes) -> None:
    """Any CBOR; what is read is the same after either writer."""
    with suppress(RemoteProtocolError):
        value = decode_cbor(data, max_bytes=MAX_MUTABLE_BYTES)
        for write in (encode_canonical, encode_s5js):
            again = decode_cbor(write(value), max_bytes=10 * MAX_MUTABLE_BYTES)
            # As bytes, because NaN is not equal to itself.
            assert write(again) == write(value)
            assert encode_canonical(again) == encode_canonical(value)


def s5_directory(data: bytes) -> None:
    """A directory in any dialect; nothing of it is lost in either of ours."""
    with suppress(RemoteProtocolError):
        directory = decode_directory(data)
        for dialect in Dialect:
            again = decode_directory(encode_directory(directory, dialect))
            assert encode_directory(again, Dialect.CANONICAL) == encode_directory(
                directory, Dialect.CANONICAL
            )


def s5_hamt(data: bytes) -> None:
    """A tree of two blobs: the root and, whatever the hash, one node below it."""
    root, _, below = data.partition(b"<node>")

    async def load(link: bytes) -> bytes:
        return root if link == ROOT else below

    async def store(node: bytes) -> bytes:
        return NATIVE.blake3(node)

    async def use() -> None:
        read_root(root)
        async for key, entry in entries(ROOT, load, NATIVE):
            assert await lookup(ROOT, key, load, NATIVE) is not None
            await update(ROOT, {key: entry, "f:new": None}, load, store, NATIVE)
            await update(ROOT, {key: None}, load, store, NATIVE)

    with suppress(RemoteProtocolError):
        run(use())


def s5_archive(data: bytes) -> None:
    """An archive of blobs; one that is whole is written the same."""
    written = BytesIO()
    reader, writer = ArchiveReader(BytesIO(data).read), ArchiveWriter(written)
    with suppress(RemoteProtocolError):
        reader.begin()
        while blob := reader.next_blob():
            writer.begin_blob(blob)
            while piece := reader.next_piece():
                writer.write(piece)
            writer.end_blob(blob)
        writer.end()
        assert written.getvalue() == data


ROOT: Final = bytes(32)


def run(coroutine: Coroutine[None, None, None]) -> None:
    """Run what only awaits functions of this module, without an event loop."""
    with suppress(StopIteration):
        coroutine.send(None)


S5_TARGETS: Final[dict[str, Target]] = {
    **S5_KEY_TARGETS,
    "s5_archive": s5_archive,
    "s5_cbor": s5_cbor,
    "s5_directory": s5_directory,
    "s5_hamt": s5_hamt,
}
