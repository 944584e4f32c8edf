"""Mutable and chunked encryption: sizes, ranges, and what does not open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.encryption import (
    MUTABLE_HEADER,
    SEALED_CHUNK_BYTES,
    TAG_BYTES,
    chunks_of,
    is_sealed_mutable,
    open_chunk,
    open_mutable,
    opened_size,
    padded_size,
    seal_chunk,
    seal_mutable,
    sealed_size,
)
from fabstir.s5.formats.limits import CHUNK_BYTES, MAX_HAMT_NODE_BYTES

KIB = 1024
KEY, NONCE = b"\x01" * 32, b"\x02" * 24
sizes = st.one_of(st.integers(0, 4 * CHUNK_BYTES), st.integers(0, 1 << 50))


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        (0, 0),
        (1, 4),
        (4 * KIB, 4),
        (4 * KIB + 1, 8),
        (80 * KIB, 80),
        (80 * KIB + 1, 88),
        (105 * KIB, 112),
        (160 * KIB, 160),
        (160 * KIB + 1, 176),
        (320 * KIB + 1, 352),
    ],
)
def test_padding_follows_the_table_of_skynet(size: int, padded: int) -> None:
    assert padded_size(size) == padded * KIB


@given(sizes)
def test_padding_costs_a_block_or_a_tenth(size: int) -> None:
    padded = padded_size(size)

    assert size <= padded == padded_size(padded)
    assert padded - size < max(4 * KIB, size / 10)


@given(st.binary(max_size=10_000), st.binary(min_size=24, max_size=24))
def test_a_mutable_blob_opens(data: bytes, nonce: bytes) -> None:
    sealed = seal_mutable(data, KEY, nonce, NATIVE)

    assert len(sealed) == padded_size(len(sealed))
    assert is_sealed_mutable(sealed)
    assert open_mutable(sealed, KEY, NATIVE) == data


def test_another_key_opens_nothing() -> None:
    sealed = seal_mutable(b"data", KEY, NONCE, NATIVE)

    with pytest.raises(RemoteProtocolError, match="does not open") as caught:
        open_mutable(sealed, b"\x03" * 32, NATIVE)

    assert caught.value.code == "DECRYPTION_FAILED"


@given(st.one_of(st.binary(max_size=100), st.binary(max_size=100).map(lambda b: b"\x8d\x01" + b)))
def test_garbage_is_one_kind_of_error(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_mutable(raw, KEY, NATIVE)
    with pytest.raises(RemoteProtocolError):
        open_chunk(KEY, 0, raw, NATIVE)


def test_a_length_that_lies_is_refused() -> None:
    plaintext = (100).to_bytes(4, "little") + bytes(99)
    sealed = MUTABLE_HEADER + NONCE + NATIVE.seal(KEY, NONCE, b"", plaintext)

    with pytest.raises(RemoteProtocolError, match="cut off"):
        open_mutable(sealed, KEY, NATIVE)


def test_a_blob_too_long_for_memory_is_not_opened() -> None:
    with pytest.raises(RemoteProtocolError, match="at most 4194304"):
        open_mutable(bytes(MAX_HAMT_NODE_BYTES + 1), KEY, NATIVE)


@given(st.binary(max_size=1000), st.integers(0, 1 << 40))
def test_a_chunk_opens_at_its_place_only(data: bytes, index: int) -> None:
    sealed = seal_chunk(KEY, index, data, NATIVE)

    assert len(sealed) == len(data) + TAG_BYTES
    assert open_chunk(KEY, index, sealed, NATIVE) == data
    with pytest.raises(RemoteProtocolError, match="does not open"):
        open_chunk(KEY, index + 1, sealed, NATIVE)


def test_chunks_have_a_longest_size() -> None:
    with pytest.raises(ValueError, match="at most 262144 bytes"):
        seal_chunk(KEY, 0, bytes(CHUNK_BYTES + 1), NATIVE)
    with pytest.raises(RemoteProtocolError, match="at most 262160 bytes"):
        open_chunk(KEY, 0, bytes(SEALED_CHUNK_BYTES + 1), NATIVE)


@given(sizes)
def test_sizes_are_each_others_inverse(size: int) -> None:
    assert opened_size(sealed_size(size)) == size


@pytest.mark.parametrize("size", [1, 16, SEALED_CHUNK_BYTES + 1, SEALED_CHUNK_BYTES + 16])
def test_no_plaintext_has_such_a_ciphertext(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"has {size} bytes"):
        opened_size(size)


@given(st.data(), st.integers(0, 5 * CHUNK_BYTES))
def test_a_range_needs_just_its_chunks(data: st.DataObject, size: int) -> None:
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))

    part = chunks_of(start, end, sealed_size(size))

    assert part.length == end - start
    if not part.length:
        assert part.first == part.end == part.sealed_start == part.sealed_end == 0
        return
    assert part.first * CHUNK_BYTES + part.skip == start
    assert 0 <= part.skip < CHUNK_BYTES
    assert (part.end - 1) * CHUNK_BYTES < end <= part.end * CHUNK_BYTES
    assert part.sealed_start == part.first * SEALED_CHUNK_BYTES
    assert part.sealed_end == min(part.end * SEALED_CHUNK_BYTES, sealed_size(size))


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, 11)])
def test_a_range_outside_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="do not lie inside"):
        chunks_of(start, end, sealed_size(10))
