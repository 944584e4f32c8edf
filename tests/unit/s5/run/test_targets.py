"""What a text of a command is taken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import PathRefused, RemoteProtocolError
from fabstir.s5.formats.derivation import child_directory
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.run.targets import SharedPath, own_path, parse_target, require_blob

BLOB = BlobId(bytes(range(32)), 300)
WRITES = Capability.of_keys(child_directory(bytes(32), "a", NATIVE), writable=True)
READS = Capability(WRITES.cid)


@pytest.mark.parametrize("base", ["b", "z", "f", "u"])
def test_identifiers_in_every_base(base: str) -> None:
    assert parse_target(BLOB.encode(base)) == BLOB
    text = READS.cid.encode(base)
    assert parse_target(text) == SharedPath(text, "")
    assert parse_target(f"{text}/a/b") == SharedPath(text, "a/b")
    assert parse_target(f"fs5://{text}/a/") == SharedPath(f"fs5://{text}", "a/")


def test_a_capability_that_writes() -> None:
    text = WRITES.encode()

    assert parse_target(f"{text}/a") == SharedPath(text, "a")


def test_a_slash_before_it_makes_it_a_path() -> None:
    for text in (BLOB.encode(), READS.encode()):
        assert parse_target(f"/{text}") == f"/{text}"
        assert own_path(f"/{text}") == f"/{text}"


@pytest.mark.parametrize(
    "text", ["", "/", "home", "blob", "blvpk", "z", "fab/cd", "u/x", "b" * 300]
)
def test_paths(text: str) -> None:
    assert parse_target(text) == own_path(text) == text


@pytest.mark.parametrize(
    "text",
    [
        READS.encode()[:-1],
        READS.encode() + "a",
        READS.encode()[:-1] + "/a",
        "fs5://",
        "fs5://home/a",
        "fs5://" + WRITES.encode().removeprefix("fs5://write:"),
        WRITES.encode()[:-1],
    ],
)
def test_capabilities_that_are_none_are_not_repeated(text: str) -> None:
    with pytest.raises(PathRefused) as caught:
        parse_target(text)

    assert "capability" in str(caught.value)
    assert READS.encode()[:20] not in str(caught.value)


def test_what_takes_a_path_takes_nothing_else() -> None:
    for text in (BLOB.encode(), READS.encode(), f"{READS.encode()}/a", WRITES.encode()):
        with pytest.raises(PathRefused):
            own_path(text)


def test_what_takes_a_blob_takes_nothing_else() -> None:
    assert require_blob(BLOB.encode()) == BLOB
    for text in ("", "home", READS.encode(), WRITES.encode(), f"{READS.encode()}/a"):
        with pytest.raises(RemoteProtocolError) as caught:
            require_blob(text)
        assert READS.encode()[:20] not in str(caught.value)


def test_a_shared_path_does_not_show_its_capability() -> None:
    assert READS.encode() not in repr(parse_target(READS.encode()))


@given(st.text())
def test_every_text_is_something_or_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except PathRefused:
        return
    assert isinstance(target, BlobId | SharedPath) or target == text
