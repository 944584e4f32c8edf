"""Registry entries and stream messages: what is signed, what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.s5_streams import sign_stream_message

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import HashType, Multihash
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.limits import (
    MAX_REGISTRY_DATA_BYTES,
    MAX_REVISION,
    MAX_STREAM_DATA_BYTES,
)
from fabstir.s5.formats.multikey import decode_multikey, encode_multikey
from fabstir.s5.formats.registry import (
    SignedEntry,
    StreamMessage,
    blob_pointer,
    read_blob_pointer,
    sign_entry,
)

SEED = b"\x01" * 32
seeds = st.binary(min_size=32, max_size=32)
entries = st.builds(
    sign_entry,
    seeds,
    st.integers(0, MAX_REVISION),
    st.binary(max_size=MAX_REGISTRY_DATA_BYTES),
    st.just(NATIVE),
)
stream_messages = st.builds(
    sign_stream_message,
    seeds,
    st.integers(0, (1 << 64) - 1),
    st.binary(max_size=100),
)


@given(entries)
def test_an_entry_survives_the_wire(entry: SignedEntry) -> None:
    assert SignedEntry.decode(entry.encode(), NATIVE) == entry


@given(stream_messages)
def test_a_stream_message_survives_the_wire(message: StreamMessage) -> None:
    assert StreamMessage.decode(message.encode(), NATIVE) == message


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b"\x07" + b)))
def test_garbage_is_one_kind_of_error(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        SignedEntry.decode(raw, NATIVE)
    with pytest.raises(RemoteProtocolError):
        StreamMessage.decode(b"\x08" + raw[1:], NATIVE)


@given(entries, st.data())
def test_every_changed_bit_is_seen(entry: SignedEntry, data: st.DataObject) -> None:
    raw = bytearray(entry.encode())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8

    with pytest.raises(RemoteProtocolError):
        SignedEntry.decode(bytes(raw), NATIVE)


def test_a_signature_of_another_revision_is_refused() -> None:
    entry = replace(sign_entry(SEED, 7, b"data", NATIVE), revision=8)

    with pytest.raises(RemoteProtocolError, match="not signed by its key"):
        SignedEntry.decode(entry.encode(), NATIVE)


def test_no_revision_beyond_the_limit_is_read_although_it_is_signed() -> None:
    revision = MAX_REVISION + 1
    signed = b"\x07" + revision.to_bytes(8, "little") + b"\x00"
    key = NATIVE.ed25519_public_key(SEED)
    signature = NATIVE.ed25519_sign(SEED, signed)
    raw = b"\x07" + encode_multikey(key) + signed[1:] + signature

    with pytest.raises(RemoteProtocolError, match="revision 281474976710656"):
        SignedEntry.decode(raw, NATIVE)


def test_no_data_beyond_the_limit_is_read_although_it_is_signed() -> None:
    signed = b"\x07" + bytes(8) + b"\x41" + bytes(65)
    signature = NATIVE.ed25519_sign(SEED, signed)
    key = NATIVE.ed25519_public_key(SEED)

    with pytest.raises(RemoteProtocolError, match="at most 64 bytes, not 65"):
        SignedEntry.decode(b"\x07" + encode_multikey(key) + signed[1:] + signature, NATIVE)


@pytest.mark.parametrize("revision", [-1, MAX_REVISION + 1])
def test_no_revision_beyond_the_limit_is_signed(revision: int) -> None:
    with pytest.raises(ValueError, match="revision"):
        sign_entry(SEED, revision, b"", NATIVE)


def test_no_data_beyond_the_limit_is_signed() -> None:
    with pytest.raises(ValueError, match="at most 64 bytes, not 65"):
        sign_entry(SEED, 0, bytes(65), NATIVE)


def test_only_a_higher_revision_is_newer() -> None:
    older, same, newer = (sign_entry(SEED, n, bytes([n]), NATIVE) for n in (1, 2, 3))

    assert newer.is_newer(same)
    assert same.is_newer(None)
    assert not same.is_newer(replace(same, data=b"other"))
    assert not older.is_newer(same)


@pytest.mark.parametrize("hash_type", HashType)
def test_an_entry_points_at_a_blob(hash_type: HashType) -> None:
    blob = Multihash(b"\x02" * 32, hash_type)

    assert len(blob_pointer(blob)) == 33
    assert read_blob_pointer(blob_pointer(blob)) == blob
    assert read_blob_pointer(blob_pointer(blob) + b"more") == blob
    assert read_blob_pointer(b"\x5a\x26" + blob_pointer(blob) + b"\x09") == blob


@pytest.mark.parametrize("data", [b"", b"\x1e", bytes(33), b"\x5a\x26\x1f"])
def test_other_data_points_at_no_blob(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="points at no blob"):
        read_blob_pointer(data)


def test_a_stream_message_may_come_without_its_payload() -> None:
    message = sign_stream_message(SEED, 1, b"payload")
    without = replace(message, payload=None)

    assert StreamMessage.decode(without.encode(), NATIVE) == without


def test_a_stream_message_of_a_dart_node_says_1f() -> None:
    digest = NATIVE.blake3(b"payload")
    signed = b"\x08" + (5).to_bytes(8, "big") + b"\x21\x1f" + digest
    key = NATIVE.ed25519_public_key(SEED)
    signature = NATIVE.ed25519_sign(SEED, signed)
    raw = b"\x08" + encode_multikey(key) + signed[1:] + signature + b"payload"

    message = StreamMessage.decode(raw, NATIVE)

    assert (message.revision, message.payload, message.hash_byte) == (5, b"payload", 0x1F)
    assert message.encode() == raw


def test_a_stream_message_with_another_payload_or_hash_is_refused() -> None:
    message = sign_stream_message(SEED, 1, b"payload")

    with pytest.raises(RemoteProtocolError, match="another payload"):
        StreamMessage.decode(message.encode() + b"!", NATIVE)
    with pytest.raises(RemoteProtocolError, match="is BLAKE3"):
        StreamMessage.decode(replace(message, hash_byte=0x12).encode(), NATIVE)
    with pytest.raises(RemoteProtocolError, match="not signed by its key"):
        StreamMessage.decode(replace(message, revision=2).encode(), NATIVE)
    with pytest.raises(RemoteProtocolError, match="at most 1000000 bytes"):
        StreamMessage.decode(message.encode() + bytes(MAX_STREAM_DATA_BYTES), NATIVE)


def test_keys_of_other_lengths_and_types_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        encode_multikey(bytes(31))
    for raw in (b"", bytes(33), b"\xed" + bytes(31)):
        with pytest.raises(RemoteProtocolError, match="ed25519"):
            decode_multikey(raw)
