"""The headers of TUS."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.door.names import encode_base64url
from fabstir.s5.door.tus_headers import (
    MAX_METADATA_BYTES,
    parse_checksum,
    parse_expected_hash,
    parse_metadata,
    parse_number,
)

keys = st.text("abcdef-_.", min_size=1, max_size=8)


@given(st.dictionaries(keys, st.binary(max_size=20), max_size=6))
def test_metadata_come_back(pairs: dict[str, bytes]) -> None:
    header = ",".join(
        f"{key} {base64.b64encode(value).decode()}" if value else key
        for key, value in pairs.items()
    )

    assert parse_metadata(header) == pairs


@given(st.text())
def test_any_metadata_are_read_or_refused(header: str) -> None:
    try:
        parse_expected_hash(parse_metadata(header))
    except RemoteProtocolError:
        return


@pytest.mark.parametrize(
    "header",
    ["a YQ==,a YQ==", "a YQ", "a Y Q==", ",", "a YQ==,,b YQ==", "ä YQ==", "a é", "x" * 5000],
)
def test_odd_metadata_are_refused(header: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_metadata(header)


def test_metadata_have_a_limit() -> None:
    with pytest.raises(RemoteProtocolError, match=str(MAX_METADATA_BYTES)):
        parse_metadata("a " + "A" * MAX_METADATA_BYTES)


def test_no_metadata() -> None:
    assert parse_metadata(None) == parse_metadata("  ") == {}


def test_the_expected_hash() -> None:
    multihash = Multihash(bytes(range(32)))
    text = encode_base64url(multihash.to_bytes()).encode()

    assert parse_expected_hash({"hash": text}) == multihash
    assert parse_expected_hash({}) is None
    for wrong in (b"", b"\xff", text[:-1], text + b"=", multihash.to_bytes()):
        with pytest.raises(RemoteProtocolError):
            parse_expected_hash({"hash": wrong})


@pytest.mark.parametrize("text", [None, "", "-1", "+1", "1.0", " 1", "1_0", "٣", str(1 << 63)])
def test_numbers(text: str | None) -> None:
    with pytest.raises(RemoteProtocolError, match="Upload-Offset"):
        parse_number(text, "Upload-Offset")


def test_the_largest_number() -> None:
    assert parse_number(str((1 << 63) - 1), "Upload-Length") == (1 << 63) - 1


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_checksums(algorithm: str) -> None:
    digest = hashlib.new(algorithm, b"data").digest()

    checksum = parse_checksum(f"{algorithm} {base64.b64encode(digest).decode()}")

    assert checksum is not None
    assert checksum.algorithm == algorithm
    assert checksum.is_of(digest)
    assert not checksum.is_of(digest[:-1] + b"\0")


@pytest.mark.parametrize("header", ["", "md5 AAAA", "sha1", "sha1 AAAA", "sha1 !", "sha1  "])
def test_odd_checksums_are_refused(header: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_checksum(header)


def test_no_checksum() -> None:
    assert parse_checksum(None) is None
