from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto import ed25519, secp256k1
from libp2p.crypto.keys import KeyPair
from libp2p.peer.envelope import Envelope, make_unsigned
from libp2p.peer.id import ID
from tests.unit.p2p.making import NOW, signed_record

from fabstir.crypto import NATIVE
from fabstir.p2p.records import (
    ENVELOPE_DOMAIN,
    ENVELOPE_TYPE,
    MAX_VALUE_BYTES,
    HostRecordValidator,
    host_record_key,
    open_host_record,
    seal_host_record,
)
from fabstir.primitives.errors import HostRecordInvalid
from fabstir.primitives.ids import PeerId
from fabstir.protocol.limits import MAX_HOST_RECORD_BYTES, MAX_HOST_RECORD_LIFETIME

HOST = ed25519.create_new_key_pair(b"\x07" * 32)
STRANGER = ed25519.create_new_key_pair(b"\x08" * 32)
VALIDATOR = HostRecordValidator(NATIVE, lambda: NOW)


def peer_id_of(key_pair: KeyPair) -> PeerId:
    return PeerId(ID.from_pubkey(key_pair.public_key).to_base58())


HOST_ID = peer_id_of(HOST)


def sealed(*, sequence: int = 1, expires_at: int = NOW + 600) -> bytes:
    record = signed_record(HOST_ID, sequence=sequence, expires_at=expires_at)
    return seal_host_record(record, HOST.private_key)


def test_a_sealed_record_opens() -> None:
    value = sealed(sequence=5)

    record = open_host_record(HOST_ID, value, NATIVE, NOW)

    assert record.sequence == 5
    assert record.peer_id == HOST_ID


def test_the_envelope_fits_its_allowance() -> None:
    value = seal_host_record(b"x" * MAX_HOST_RECORD_BYTES, HOST.private_key)

    assert len(value) <= MAX_VALUE_BYTES


def test_a_record_that_is_too_long_is_not_sealed() -> None:
    with pytest.raises(HostRecordInvalid, match="offer fewer models"):
        seal_host_record(b"x" * (MAX_HOST_RECORD_BYTES + 1), HOST.private_key)


def test_an_expired_record_says_so() -> None:
    with pytest.raises(HostRecordInvalid, match="expired 30 s ago"):
        open_host_record(HOST_ID, sealed(expires_at=NOW + 600), NATIVE, NOW + 630)


def test_a_record_that_never_expires_is_refused() -> None:
    value = sealed(expires_at=NOW + MAX_HOST_RECORD_LIFETIME + 1)

    with pytest.raises(HostRecordInvalid, match="s ahead"):
        open_host_record(HOST_ID, value, NATIVE, NOW)


def test_a_record_of_another_peer_is_refused() -> None:
    value = seal_host_record(signed_record(peer_id_of(STRANGER)), HOST.private_key)

    with pytest.raises(HostRecordInvalid, match="made out to peer"):
        open_host_record(HOST_ID, value, NATIVE, NOW)


def test_a_wallet_cannot_speak_for_a_peer_that_did_not_sign() -> None:
    value = seal_host_record(signed_record(HOST_ID, sequence=99), STRANGER.private_key)

    with pytest.raises(HostRecordInvalid, match="signed by another peer"):
        open_host_record(HOST_ID, value, NATIVE, NOW)


def test_a_peer_cannot_change_what_the_wallet_signed() -> None:
    tampered = signed_record(HOST_ID).replace(b"8080", b"6666")

    with pytest.raises(HostRecordInvalid, match="not signed by the wallet"):
        open_host_record(HOST_ID, seal_host_record(tampered, HOST.private_key), NATIVE, NOW)


def test_an_envelope_of_another_kind_is_refused() -> None:
    payload, kind = signed_record(HOST_ID), b"/something/else"
    signature = HOST.private_key.sign(make_unsigned(ENVELOPE_DOMAIN, kind, payload))
    value = Envelope(HOST.public_key, kind, payload, signature).marshal_envelope()

    with pytest.raises(HostRecordInvalid, match="holds something else"):
        open_host_record(HOST_ID, value, NATIVE, NOW)


def test_other_key_types_are_refused() -> None:
    key_pair = secp256k1.create_new_key_pair(b"\x09" * 32)
    peer_id = peer_id_of(key_pair)
    payload = signed_record(peer_id)
    signature = key_pair.private_key.sign(make_unsigned(ENVELOPE_DOMAIN, ENVELOPE_TYPE, payload))
    value = Envelope(key_pair.public_key, ENVELOPE_TYPE, payload, signature).marshal_envelope()

    with pytest.raises(HostRecordInvalid, match="Ed25519"):
        open_host_record(peer_id, value, NATIVE, NOW)


@given(st.binary(max_size=MAX_VALUE_BYTES + 2))
def test_garbage_is_invalid_and_nothing_else(value: bytes) -> None:
    with pytest.raises(HostRecordInvalid):
        open_host_record(HOST_ID, value, NATIVE, NOW)


@given(st.data())
def test_a_flipped_bit_is_found(data: st.DataObject) -> None:
    value = bytearray(sealed())
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    value[bit // 8] ^= 1 << bit % 8

    with pytest.raises(HostRecordInvalid):
        open_host_record(HOST_ID, bytes(value), NATIVE, NOW)


def test_the_validator_refuses_what_does_not_open() -> None:
    with pytest.raises(HostRecordInvalid):
        VALIDATOR.validate(host_record_key(HOST_ID), sealed(expires_at=NOW - 1))


def test_the_highest_sequence_wins() -> None:
    values = [sealed(sequence=2), sealed(sequence=9), sealed(sequence=4)]

    assert VALIDATOR.select(host_record_key(HOST_ID), values) == 1


def test_a_valid_record_beats_an_expired_one_of_higher_sequence() -> None:
    values = [sealed(sequence=9, expires_at=NOW - 1), sealed(sequence=1)]

    assert VALIDATOR.select(host_record_key(HOST_ID), values) == 1


def test_the_same_record_may_be_stored_again() -> None:
    value = sealed()

    assert VALIDATOR.select(host_record_key(HOST_ID), [value, value]) == 1


def test_another_record_of_the_same_sequence_changes_nothing() -> None:
    values = [sealed(expires_at=NOW + 100), sealed(expires_at=NOW + 200)]

    assert VALIDATOR.select(host_record_key(HOST_ID), values) == 0
