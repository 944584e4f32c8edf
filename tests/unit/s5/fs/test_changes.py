"""What becomes of a name, and when two writers wanted the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.errors import NotFound, PathRefused, WriteConflict
from fabstir.s5.formats.directory import DirRef, FileEncryption, FileRef, LinkKind
from fabstir.s5.fs.changes import (
    NameSlot,
    PutDirectory,
    PutFile,
    RemoveDirectory,
    RemoveFile,
    TakeAway,
    same_content,
    with_history,
)
from fabstir.s5.fs.ownership import SHARED, mark_shared, own_blobs
from fabstir.s5.fs.values import cid_of, versions_of


def file_of(number: int, plaintext: int | None = None) -> FileRef:
    encryption = FileEncryption(
        key=bytes([number]) * 32, plaintext_hash=bytes([plaintext or number]) * 32
    )
    return FileRef(hash=bytes([number]) * 32, size=9, encryption=encryption)


DIRECTORY = DirRef(kind=LinkKind.MUTABLE, link=b"\5" * 32, timestamp=1)


@given(st.integers(0, 12), st.integers(0, 9))
def test_history_is_bounded_and_newest_first(num_puts: int, max_versions: int) -> None:
    slot = NameSlot()
    for number in range(1, num_puts + 1):
        slot = PutFile(path="f", file=file_of(number), max_versions=max_versions).apply(slot)

    versions = versions_of(slot.file) if slot.file else ()

    kept = range(num_puts, max(0, num_puts - max_versions - 1), -1)
    assert [version.hash[0] for version in versions] == list(kept)


def test_restoring_keeps_every_version_once() -> None:
    chain = with_history(file_of(3), [file_of(2), file_of(1)], 8)

    restored = with_history(file_of(1), versions_of(chain), 8)

    assert [version.hash[0] for version in versions_of(restored)] == [1, 3, 2]


def test_the_same_content_from_two_writers_is_no_conflict() -> None:
    mine = PutFile(path="f", file=file_of(1, plaintext=7), max_versions=8)

    assert mine.is_done(NameSlot(file=file_of(2, plaintext=7)))
    assert not mine.is_done(NameSlot(file=file_of(2, plaintext=8)))
    assert not replace(mine, if_none_match=True).is_done(NameSlot(file=file_of(2, plaintext=7)))
    clear = replace(file_of(1), encryption=None)
    assert same_content(clear, clear)
    assert not same_content(clear, file_of(1))
    unknown = replace(file_of(1), encryption=FileEncryption(key=b"\1" * 32))
    assert not same_content(unknown, unknown)


def test_conditions() -> None:
    put = PutFile(path="f", file=file_of(2), max_versions=8, if_match=cid_of(file_of(1)))

    assert put.apply(NameSlot(file=file_of(1))).file is not None
    for slot in (NameSlot(), NameSlot(file=file_of(3))):
        with pytest.raises(WriteConflict):
            put.apply(slot)
    with pytest.raises(PathRefused):
        put.apply(NameSlot(directory=DIRECTORY))
    with pytest.raises(NotFound):
        RemoveFile(path="f").apply(NameSlot())


def test_a_directory_that_was_made_anew_stays() -> None:
    anew = replace(DIRECTORY, timestamp=2)
    gone = RemoveDirectory(path="d", ref=DIRECTORY)

    assert gone.apply(NameSlot(directory=DIRECTORY)).is_empty
    assert gone.apply(NameSlot(directory=anew)) == NameSlot(directory=anew)
    assert gone.is_done(NameSlot(directory=anew))


def test_a_directory_replaces_only_what_it_saw() -> None:
    other = replace(DIRECTORY, link=b"\6" * 32)

    assert PutDirectory(path="d", ref=other, replaces=DIRECTORY).apply(
        NameSlot(directory=DIRECTORY)
    ) == NameSlot(directory=other)
    with pytest.raises(WriteConflict):
        PutDirectory(path="d", ref=other).apply(NameSlot(directory=DIRECTORY))
    with pytest.raises(PathRefused):
        PutDirectory(path="d", ref=other).apply(NameSlot(file=file_of(1)))


def test_what_was_moved_away_leaves_the_rest() -> None:
    strict = TakeAway(path="f", file=file_of(1), is_strict=True)
    lenient = replace(strict, is_strict=False)

    assert strict.apply(NameSlot(file=file_of(1))).is_empty
    assert lenient.apply(NameSlot(file=file_of(2))) == NameSlot(file=file_of(2))
    with pytest.raises(WriteConflict):
        strict.apply(NameSlot(file=file_of(2)))


def test_only_blobs_with_a_key_of_their_own_are_owned() -> None:
    chain = with_history(file_of(2), [file_of(1)], 8)

    assert [blob.digest[0] for blob in own_blobs(chain)] == [2, 1]
    assert list(own_blobs(mark_shared(chain))) == []
    assert all(SHARED in version.extra for version in versions_of(mark_shared(chain)))
    assert list(own_blobs(replace(file_of(1), encryption=None))) == []
    assert list(own_blobs(replace(file_of(1), size=0))) == []
    assert list(own_blobs(None)) == []
