"""Names of blobs and paths of files, as they stand in URLs."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.cid import BlobId, HashType, Multihash
from fabstir.primitives.encoding import encode_multibase
from fabstir.primitives.errors import PathRefused, RemoteProtocolError
from fabstir.s5.door.names import (
    BlobName,
    decode_base64url,
    decode_path,
    encode_base64url,
    parse_blob_name,
)
from fabstir.s5.formats.limits import MAX_PATH_BYTES, MAX_PATH_DEPTH

blobs = st.builds(
    BlobId,
    st.binary(min_size=32, max_size=32),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from(HashType),
)


@given(blobs)
def test_every_spelling_of_a_blob(blob: BlobId) -> None:
    for base in "fbzu":
        assert parse_blob_name(blob.encode(base)) == BlobName(blob.multihash, blob.size)
        bare = encode_multibase(blob.multihash.to_bytes(), base)
        assert parse_blob_name(bare) == BlobName(blob.multihash, None)
        digest = encode_multibase(blob.digest, base)
        assert parse_blob_name(digest) == BlobName(Multihash(blob.digest), None)
    of_lib5 = encode_base64url(blob.multihash.to_bytes())
    assert parse_blob_name(of_lib5) == BlobName(blob.multihash, None)


@given(blobs)
def test_the_bare_hash_of_s5js_has_53_characters(blob: BlobId) -> None:
    assert len(encode_multibase(blob.digest, "b")) == 53


@given(st.text())
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        parse_blob_name(text)
    except RemoteProtocolError:
        return


def test_whose_name_it_is() -> None:
    blob = BlobId(bytes(32), 5)

    assert BlobName(blob.multihash, None).is_of(blob)
    assert BlobName(blob.multihash, 5).is_of(blob)
    assert not BlobName(blob.multihash, 6).is_of(blob)
    assert not BlobName(Multihash(b"\1" * 32), 5).is_of(blob)


@given(st.binary())
def test_base64url(data: bytes) -> None:
    assert decode_base64url(encode_base64url(data)) == data


@pytest.mark.parametrize("text", ["A", "AA==", "AB", "A+A", "A A", "é", "AA\n"])
def test_base64url_has_one_spelling(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_base64url(text)


names = st.text(min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."} and "/" not in name and "\0" not in name
)


@given(st.lists(names, max_size=8))
def test_a_path_is_decoded_once(segments: list[str]) -> None:
    try:
        raw = "/".join(quote(segment, safe="") for segment in segments).encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair cannot be written into a URL

    assert decode_path(raw) == "/".join(segments)


@given(st.binary())
def test_any_bytes_are_a_path_or_refused(raw: bytes) -> None:
    try:
        path = decode_path(raw)
    except PathRefused:
        return
    assert not path or all(segment not in {"", ".", ".."} for segment in path.split("/"))
    assert "\0" not in path


@pytest.mark.parametrize(
    "raw",
    [
        b"..",
        b".",
        b"a/../b",
        b"a/./b",
        b"%2e%2e/b",
        b"%2E./b",
        b".%2e",
        b"a/%2e%2e",
        b"/a",
        b"a//b",
        b"a/",
        b"a%2fb",
        b"a%2Fb",
        b"..%2f..%2fetc",
        b"a%00b",
        b"a\0b",
        b"%ff",
        b"%c0%af",
        b"%e0%80%af",
        b"%ed%a0%80",
        b"a%",
        b"a%2",
        b"a%zz",
        b"a%%32",
        b"x" * (3 * MAX_PATH_BYTES + 1),
        b"x" * (MAX_PATH_BYTES + 1),
        "/".join(["a"] * (MAX_PATH_DEPTH + 1)).encode(),
    ],
)
def test_what_climbs_hides_or_breaks_is_refused(raw: bytes) -> None:
    with pytest.raises(PathRefused):
        decode_path(raw)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"", ""),
        (b"a%252fb", "a%2fb"),
        (b"%252e%252e", "%2e%2e"),
        (b"a+b", "a+b"),
        (b"a%20b/...", "a b/..."),
        ("ä/b".encode(), "ä/b"),
        (b"x" * MAX_PATH_BYTES, "x" * MAX_PATH_BYTES),
    ],
)
def test_what_only_looks_so_is_a_name(raw: bytes, path: str) -> None:
    assert decode_path(raw) == path
