"""The archive format, byte by byte."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.limits import MAX_REVISION
from fabstir.s5.formats.registry import SignedEntry, sign_entry
from fabstir.s5.store.archive import MAGIC, ArchiveReader, ArchiveWriter

Parts = list[tuple[BlobId, bytes] | SignedEntry]

ENTRY = sign_entry(b"\5" * 32, 7, b"data", NATIVE)


@st.composite
def blobs(draw: st.DrawFn) -> tuple[BlobId, bytes]:
    data = draw(st.binary(max_size=300))
    return BlobId(NATIVE.blake3(data), len(data), draw(st.sampled_from(HashType))), data


@st.composite
def entries(draw: st.DrawFn) -> SignedEntry:
    seed = draw(st.binary(min_size=32, max_size=32))
    revision = draw(st.integers(0, MAX_REVISION))
    return sign_entry(seed, revision, draw(st.binary(max_size=64)), NATIVE)


def parts() -> st.SearchStrategy[Parts]:
    return st.lists(blobs() | entries(), max_size=6)


def write(contents: Parts) -> bytes:
    file = BytesIO()
    writer = ArchiveWriter(file)
    for part in contents:
        if isinstance(part, SignedEntry):
            writer.add_entry(part)
            continue
        blob, data = part
        writer.begin_blob(blob)
        writer.write(data)
        writer.end_blob(blob)
    writer.end()
    return file.getvalue()


def read(archive: bytes) -> Parts:
    reader = ArchiveReader(BytesIO(archive).read, NATIVE)
    reader.begin()
    contents: Parts = []
    while part := reader.next_part():
        if isinstance(part, SignedEntry):
            contents.append(part)
            continue
        data = b""
        while piece := reader.next_piece():
            data += piece
        contents.append((part, data))
    return contents


def test_an_archive_of_a_blob_and_an_entry() -> None:
    blob = BlobId(NATIVE.blake3(b"hello"), 5)

    archive = write([(blob, b"hello"), ENTRY])

    assert archive == (
        b"S5CAR\r\n\x01"
        + bytes([1, 36])
        + b"\x5b\x82\x1e"
        + NATIVE.blake3(b"hello")
        + b"\x05hello"
        + bytes([2, len(ENTRY.encode())])
        + ENTRY.encode()
        + bytes([0])
        + bytes([1, 0, 0, 0, 0, 0, 0, 0])
        + NATIVE.blake3(blob.to_bytes() + ENTRY.encode())
    )


@settings(max_examples=30)
@given(parts())
def test_what_was_written_is_read(contents: Parts) -> None:
    assert read(write(contents)) == contents


@settings(max_examples=30)
@given(parts(), st.data())
def test_every_cut_is_noticed(contents: Parts, data: st.DataObject) -> None:
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
@given(parts())
def test_nothing_may_follow(contents: Parts) -> None:
    with pytest.raises(RemoteProtocolError, match="goes on behind its end"):
        read(write(contents) + b"x")


def test_a_blob_that_was_left_out_is_noticed() -> None:
    one = (BlobId(NATIVE.blake3(b"one"), 3), b"one")
    two = (BlobId(NATIVE.blake3(b"two"), 3), b"two")
    record = 2 + 36 + 3

    with pytest.raises(RemoteProtocolError, match="another number of blobs"):
        archive = write([one, two])
        read(archive[: len(MAGIC)] + archive[len(MAGIC) + record :])
    with pytest.raises(RemoteProtocolError, match="other blobs or entries"):
        archive = write([one, ENTRY])
        read(archive[: len(MAGIC) + record] + archive[-41:])
    with pytest.raises(RemoteProtocolError, match="other blobs or entries than its end says"):
        archive, other = write([one]), write([two])
        read(archive[:-41] + other[-41:])


def test_a_forged_entry_is_refused() -> None:
    forged = replace(ENTRY, revision=8)

    with pytest.raises(RemoteProtocolError, match="not signed by its key"):
        read(write([forged]))


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
