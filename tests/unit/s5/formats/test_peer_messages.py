"""The messages of peers: their bytes, their limits, and everything hostile."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.s5_streams import sign_stream_message

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import HashType, Multihash
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.formats.wire import (
    MAX_HOPS,
    Absent,
    AnnouncePeers,
    HandshakeDone,
    HashQuery,
    LocationType,
    PeerHandshake,
    PeerInfo,
    Refused,
    RegistryQuery,
    Signed,
    StorageLocation,
    StreamQuery,
    Trace,
    UnknownPeerMessage,
    decode_message,
    sign_location,
    sign_message,
)

SEED = b"\x01" * 32
KEY = NATIVE.ed25519_public_key(SEED)
MULTIKEY = b"\xed" + KEY

raw32 = st.binary(min_size=32, max_size=32)
uris = st.lists(st.text(max_size=40), max_size=3).map(tuple)
challenges = st.binary(min_size=1, max_size=64)
multihashes = st.builds(Multihash, raw32, st.sampled_from(HashType))
type_lists = st.lists(st.integers(0, 255), max_size=16).map(tuple)
trace_ids = st.binary(min_size=8, max_size=8)
traces = st.one_of(st.none(), st.builds(Trace, id=trace_ids, hops=st.integers(0, MAX_HOPS)))
queries = st.one_of(
    st.builds(HashQuery, hash=multihashes, types=type_lists, trace=traces),
    st.builds(HashQuery, hash=st.builds(Multihash, raw32), types=type_lists, legacy=st.just(True)),
)
signed_bodies = st.one_of(
    st.builds(
        HandshakeDone,
        challenge=challenges,
        features=st.integers(0, (1 << 32) - 1),
        uris=uris,
        extensions=st.integers(0, (1 << 32) - 1),
    ),
    st.builds(
        AnnouncePeers,
        peers=st.lists(
            st.builds(PeerInfo, public_key=raw32, is_connected=st.booleans(), uris=uris),
            max_size=3,
        ).map(tuple),
    ),
)


@st.composite
def locations(draw: st.DrawFn) -> StorageLocation:
    return sign_location(
        draw(raw32),
        draw(queries),
        location_type=draw(st.sampled_from(LocationType)),
        expiry=draw(st.integers(0, (1 << 32) - 1)),
        parts=draw(uris),
        crypto=NATIVE,
    )


messages = st.one_of(
    st.builds(
        PeerHandshake, challenge=challenges, network=st.one_of(st.none(), st.text(max_size=16))
    ),
    st.builds(sign_message, raw32, signed_bodies, st.just(NATIVE)),
    queries,
    locations(),
    st.builds(sign_entry, raw32, st.integers(0, 99), st.binary(max_size=64), st.just(NATIVE)),
    st.builds(sign_stream_message, raw32, st.integers(0, 99), st.binary()),
    st.builds(RegistryQuery, public_key=raw32, trace=traces),
    st.builds(
        StreamQuery,
        public_key=raw32,
        after=st.one_of(st.none(), st.integers(0, (1 << 64) - 1)),
    ),
    st.builds(
        Absent,
        subject=st.binary(min_size=33, max_size=33),
        trace_id=st.one_of(st.none(), trace_ids),
    ),
    st.builds(Refused, public_key=raw32, reason=st.text(max_size=100)),
)


@given(messages)
def test_a_message_survives_the_wire(message: Any) -> None:
    decoded = decode_message(message.encode(), NATIVE)

    assert decoded == message
    if isinstance(message, Signed):
        assert isinstance(decoded, Signed)
        assert decoded.message == message.message


@given(messages, st.data())
def test_a_changed_message_is_another_one_or_one_kind_of_error(
    message: Any, data: st.DataObject
) -> None:
    raw = bytearray(message.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))

    for changed in (bytes(raw), bytes(raw[:cut])):
        with contextlib.suppress(RemoteProtocolError):
            decode_message(changed, NATIVE)


@given(st.binary(max_size=100))
def test_garbage_is_a_value_or_one_kind_of_error(raw: bytes) -> None:
    for method in (b"", b"\x01", b"\x02", b"\x04", b"\x05", b"\x07", b"\x08", b"\x0a", b"\x49"):
        with contextlib.suppress(RemoteProtocolError):
            decode_message(method + raw, NATIVE)


def pack(*values: object) -> bytes:
    packed: Callable[[object], bytes] = msgpack.packb  # pyright: ignore - it has no types
    return b"".join(packed(value) for value in values)


def signed(*values: object) -> bytes:
    body = pack(*values)
    return pack(10, MULTIKEY, NATIVE.ed25519_sign(SEED, body), body)


def test_what_s5js_sends_is_read() -> None:
    challenge = bytes(range(64))
    query = decode_message(pack(4, b"\x1e" + bytes(32), [3, 5]), NATIVE)
    done = decode_message(signed(2, challenge, 3, 0), NATIVE)

    assert decode_message(pack(1, challenge), NATIVE) == PeerHandshake(challenge=challenge)
    assert query == HashQuery(hash=Multihash(bytes(32)), types=(3, 5))
    assert isinstance(done, Signed)
    assert done.public_key == KEY
    assert done.message == HandshakeDone(challenge=challenge)


def test_what_dart_nodes_send_is_read() -> None:
    key = b"\xed" + bytes(32)
    opening = decode_message(pack(1, bytes(32), "test"), NATIVE)
    announced = decode_message(signed(8, 1, key, True, 1, "wss://a/s5/p2p"), NATIVE)
    query = decode_message(pack(4, b"\x1f" + bytes(32), [5, 3]), NATIVE)
    stream = decode_message(pack(0x49, key, {1: 7}), NATIVE)

    assert opening == PeerHandshake(challenge=bytes(32), network="test")
    assert isinstance(announced, Signed)
    assert announced.message == AnnouncePeers(
        peers=(PeerInfo(public_key=bytes(32), is_connected=True, uris=("wss://a/s5/p2p",)),)
    )
    assert query == HashQuery(hash=Multihash(bytes(32)), types=(5, 3), legacy=True)
    assert stream == StreamQuery(public_key=bytes(32), after=7)


def test_an_answer_repeats_how_the_hash_was_written() -> None:
    query = HashQuery(hash=Multihash(bytes(32)), types=(3,), legacy=True)

    location = sign_location(
        SEED, query, location_type=LocationType.FILE, expiry=1, parts=("http://a",), crypto=NATIVE
    )

    assert location.encode()[:2] == b"\x05\x1f"
    assert query.subject == b"\x1f" + bytes(32)


def test_a_hash_of_another_type_is_asked_for_as_such() -> None:
    query = HashQuery(hash=Multihash(bytes(32), HashType.SHA256), types=(3,))

    assert query.subject == b"\x12" + bytes(32)
    assert replace(query, legacy=True).subject == query.subject


def test_what_is_not_known_is_a_value() -> None:
    inner = decode_message(signed(99, "whatever", {"a": [1]}), NATIVE)

    assert decode_message(pack(200, b"x"), NATIVE) == UnknownPeerMessage(method=200)
    assert isinstance(inner, Signed)
    assert inner.message == UnknownPeerMessage(method=99)
    assert decode_message(pack(0x49, MULTIKEY, {2: 7}), NATIVE) == StreamQuery(public_key=KEY)


LOCATION = sign_location(
    SEED,
    HashQuery(hash=Multihash(bytes(32)), types=(3,)),
    location_type=LocationType.FILE,
    expiry=9,
    parts=("http://a/b",),
    crypto=NATIVE,
)
HEAD = b"\x05\x1e" + bytes(32) + b"\x03" + bytes(4)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "cut off"),
        (bytes(MAX_WIRE_BYTES + 1), "longer than"),
        (pack(True), "the method must be"),
        (pack(-1), "the method must be"),
        (pack("1"), "the method must be"),
        (pack(1), "cut off"),
        (pack(1, b""), "the challenge must be 1 to 256 bytes"),
        (pack(1, bytes(257)), "the challenge must be"),
        (pack(1, "text"), "the challenge must be"),
        (pack(1, b"x", 5), "the network must be text"),
        (pack(1, b"x", "n" * 65), "the network must be text of at most 64 bytes"),
        (pack(1, b"x") + b"\xa1\xff", "not msgpack"),
        (pack(1) + b"\xc1", "not msgpack"),
        (pack(4, bytes(33), []), "begins with 12, 1e or 1f"),
        (pack(4, b"\x1e" + bytes(32), 3), "the types must be a list"),
        (pack(4, b"\x1e" + bytes(32), [256]), "the types must be"),
        (pack(4, b"\x1e" + bytes(32), [True]), "the types must be"),
        (pack(4, b"\x1e" + bytes(32), [3] * 17), "at most 16"),
        (pack(4, b"\x1e" + bytes(32), [3] * 1000), "not msgpack"),
        (pack(4, b"\x1e" + bytes(32)) + b"\xdd\xff\xff\xff\xff", "not msgpack"),
        (pack(13, bytes(33)), "ed25519"),
        (pack(13) + b"\x91" * 100_000, "not msgpack"),
        (pack(0x49, MULTIKEY, [1]), "the options must be a map"),
        (pack(0x49, MULTIKEY, {1: -1}), "64 bits"),
        (pack(0x49, MULTIKEY, {1: True}), "64 bits"),
        (pack(0x49, MULTIKEY) + b"\x81\x91\x01\x01", "not msgpack"),
        (pack(0x61, bytes(32)), "the subject must be"),
        (pack(10, MULTIKEY, bytes(64), pack(2, b"x", 3, 0)), "not signed by the key"),
        (pack(10, MULTIKEY, bytes(63), b"x"), "the signature must be"),
        (signed("x"), "the method must be"),
        (signed(2, b"x", 3, 17), "the number of URIs must be"),
        (signed(2, b"x", 3, 1, "u" * 2049), "a URI must be text of at most 2048"),
        (signed(2, b"x", 3, 0, "ours"), "the extensions must be"),
        (signed(8, 257), "the number of peers must be"),
        (signed(8, 2, MULTIKEY, True, 0), "cut off"),
        (signed(8, 1, MULTIKEY, 1, 0), "true or false"),
        (HEAD + b"\x11", "more than 16 parts"),
        (HEAD + b"\x01\x01\x08" + bytes(2049), "longer than 2048 bytes"),
        (HEAD + b"\x01\x01\x00\xff", "not UTF-8"),
        (HEAD + b"\x01\x09\x00a", "cut off"),
        (HEAD + b"\x00\x01" + bytes(97), "has 01 where 00 belongs"),
        (HEAD + b"\x00\x00" + MULTIKEY + bytes(64), "not signed by the node"),
        (b"\x05\x00" + bytes(38) + b"\x00" + MULTIKEY + bytes(64), "begins with 12, 1e or 1f"),
        (LOCATION.encode() + b"!", "belong to it"),
        (replace(LOCATION, expiry=10).encode(), "not signed by the node"),
    ],
)
def test_what_is_wrong_is_said(frame: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode_message(frame, NATIVE)


@pytest.mark.parametrize(
    ("expiry", "parts", "reason"),
    [
        (-1, (), "Unix time"),
        (1 << 32, (), "Unix time"),
        (0, ("x",) * 17, "at most 16 parts"),
        (0, ("é" * 1025,), "at most 2048 bytes"),
    ],
)
def test_no_location_beyond_the_limits_is_signed(
    expiry: int, parts: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        sign_location(
            SEED,
            HashQuery(hash=Multihash(bytes(32)), types=()),
            location_type=LocationType.FULL,
            expiry=expiry,
            parts=parts,
            crypto=NATIVE,
        )


def test_what_other_nodes_put_behind_a_question_is_passed_over() -> None:
    question = RegistryQuery(public_key=KEY)

    for behind in (pack("more"), pack(b"x" * 9, 1), pack(b"x" * 8, MAX_HOPS + 1), b"\xc1", b"\xc4"):
        assert decode_message(question.encode() + behind, NATIVE) == question
