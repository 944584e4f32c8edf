"""The next version of a directory, encoded from the one before."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies_s5 import directories

from fabstir.s5.formats.dialects import (
    decode_directory,
    encode_canonical_directory,
    encode_directory,
)
from fabstir.s5.formats.directory import Directory, DirectoryDialect, FileRef


@settings(max_examples=15)
@given(directories, directories)
def test_the_bytes_are_those_of_the_whole(first: Directory, second: Directory) -> None:
    merged = Directory(
        files={**first.files, **second.files},
        dirs={**first.dirs, **second.dirs},
        sharding=second.sharding,
        header=second.header,
    )
    before = encode_canonical_directory(first)

    assert before.data == encode_directory(first, DirectoryDialect.CANONICAL)
    for directory in (merged, second, first):
        after = encode_canonical_directory(directory, before)
        assert after.data == encode_directory(directory, DirectoryDialect.CANONICAL)


@given(st.sampled_from(["", ".", "..", "a/b", "a\0", "x" * 2000]))
def test_names_of_others_are_written_again(name: str) -> None:
    theirs = Directory(files={name: FileRef(hash=bytes(32), size=1)}, dirs={})

    assert decode_directory(encode_canonical_directory(theirs).data) == theirs
