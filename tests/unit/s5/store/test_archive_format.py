"""The archive format, byte by byte."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.storage.store.archive import MAGIC, ArchiveReader, ArchiveWriter

Blobs = list[tuple[BlobId, bytes]]


@st.composite
def blobs(draw: st.DrawFn) -> Blobs:
    contents = draw(st.lists(st.binary(max_size=300), max_size=5))
    types = st.sampled_from(HashType)
    return [(BlobId(NATIVE.blake3(data), len(data), draw(types)), data) for data in contents]


def write(contents: Blobs) -> bytes:
    file = BytesIO()
    writer = ArchiveWriter(file)
    for blob, data in contents:
        writer.begin_blob(blob)
        writer.write(data)
        writer.end_blob(blob)
    writer.end()
    return file.getvalue()


def read(archive: bytes) -> Blobs:
    reader = ArchiveReader(BytesIO(archive).read)
    reader.begin()
    contents: Blobs = []
    while blob := reader.next_blob():
        data = b""
        while piece := reader.next_piece():
            data += piece
        contents.append((blob, data))
    return contents


def test_an_archive_of_one_blob() -> None:
    blob = BlobId(NATIVE.blake3(b"hello"), 5)

    archive = write([(blob, b"hello")])

    assert archive == (
        b"S5CAR\r\n\x01"
        + bytes([1, 36])
        + b"\x5b\x82\x1e"
        + NATIVE.blake3(b"hello")
        + b"\x05hello"
        + bytes([0])
        + bytes([1, 0, 0, 0, 0, 0, 0, 0])
        + NATIVE.blake3(blob.to_bytes())
    )


@settings(max_examples=30)
@given(blobs())
def test_what_was_written_is_read(contents: Blobs) -> None:
    assert read(write(contents)) == contents


@settings(max_examples=30)
@given(blobs(), st.data())
def test_every_cut_is_noticed(contents: Blobs, data: st.DataObject) -> None:
    archive = write(contents)
    length = data.draw(st.integers(0, len(archive) - 1))

    with pytest.raises(RemoteProtocolError):
        read(archive[:length])


@given(st.binary(max_size=200))
def test_any_bytes_give_one_error(rest: bytes) -> None:
    for data in (rest, MAGIC + rest):
        try:
            read(data)
        except RemoteProtocolError:
            continue


@settings(max_examples=30)
@given(blobs())
def test_nothing_may_follow(contents: Blobs) -> None:
    with pytest.raises(RemoteProtocolError, match="goes on behind its end"):
        read(write(contents) + b"x")


def test_a_blob_that_was_left_out_is_noticed() -> None:
    one = (BlobId(NATIVE.blake3(b"one"), 3), b"one")
    two = (BlobId(NATIVE.blake3(b"two"), 3), b"two")
    record = 2 + 36 + 3

    with pytest.raises(RemoteProtocolError, match="another number of blobs"):
        archive = write([one, two])
        read(archive[: len(MAGIC)] + archive[len(MAGIC) + record :])
    with pytest.raises(RemoteProtocolError, match="other blobs than its end says"):
        archive, other = write([one]), write([two])
        read(archive[:-41] + other[-41:])


def test_identifiers_have_one_form() -> None:
    raw = b"\x26\x1f" + bytes(32) + b"\0"

    with pytest.raises(RemoteProtocolError, match="earlier form"):
        read(MAGIC + bytes([1, len(raw)]) + raw)


def test_a_blob_is_taken_back() -> None:
    one = BlobId(NATIVE.blake3(b"one"), 3)
    file = BytesIO()
    writer = ArchiveWriter(file)

    start = writer.begin_blob(one)
    writer.write(b"o")
    writer.abandon(start)
    writer.end()

    assert read(file.getvalue()) == []


def test_a_size_of_exabytes_takes_no_memory() -> None:
    huge = BlobId(bytes(32), (1 << 64) - 1)
    raw = huge.to_bytes()

    with pytest.raises(RemoteProtocolError, match=r"ends \d+ bytes before the end of a blob"):
        read(MAGIC + bytes([1, len(raw)]) + raw + b"three")
