"""The handshake in the form existing clients speak, and the extension's channel."""

import hashlib
import json
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import (
    addresses,
    byte_strings,
    chain_ids,
    identifiers,
    init_envelopes,
    job_ids,
    sealed_payloads,
    secrets,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, ChainId, JobId
from fabstir.protocol.envelope import (
    NONCE_BYTES,
    InitEnvelope,
    SealedPayload,
    SecureChannel,
    frame_binding,
    hkdf_sha256,
    init_aad,
    open_init,
    open_payload,
    seal_init,
    seal_payload,
)
from fabstir.protocol.fields import Fields

HOST_SECRET, CLIENT_SECRET, EPHEMERAL = b"\1" * 32, b"\2" * 32, b"\3" * 32
HOST_KEY = NATIVE.public_key(HOST_SECRET)
NONCE = b"\4" * NONCE_BYTES

INIT = seal_init(
    b'{"jobId":"7"}',
    host_public_key=HOST_KEY,
    ephemeral_secret=EPHEMERAL,
    signing_secret=CLIENT_SECRET,
    nonce=NONCE,
    aad=b"",
    crypto=NATIVE,
)


def reread(fields: dict[str, Json]) -> InitEnvelope:
    """As it comes out of a frame."""
    return InitEnvelope.from_fields(Fields(cast("dict[str, object]", fields), "payload"))


def code_of(envelope: InitEnvelope, secret: bytes = HOST_SECRET) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        open_init(envelope, secret, NATIVE)
    return caught.value.code


# -- HKDF -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("salt", "info", "length", "key"),
    [
        (
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_hkdf_known_answers(salt: str, info: str, length: int, key: str) -> None:
    """RFC 5869, test cases 1 and 3."""
    derived = hkdf_sha256(
        b"\x0b" * 22, salt=bytes.fromhex(salt), info=bytes.fromhex(info), length=length
    )

    assert derived.hex() == key


# -- the handshake --------------------------------------------------------------------------------


@given(secrets, secrets, secrets, byte_strings(NONCE_BYTES), st.binary(max_size=40), st.binary())
def test_an_init_opens_for_its_host_and_names_its_signer(
    host: bytes, ephemeral: bytes, signing: bytes, nonce: bytes, aad: bytes, plaintext: bytes
) -> None:
    envelope = seal_init(
        plaintext,
        host_public_key=NATIVE.public_key(host),
        ephemeral_secret=ephemeral,
        signing_secret=signing,
        nonce=nonce,
        aad=aad,
        crypto=NATIVE,
    )

    opened = open_init(reread(envelope.to_json()), host, NATIVE)

    assert opened.plaintext == plaintext
    assert opened.signer == NATIVE.address_of(NATIVE.public_key(signing))


def test_the_transcript_is_that_of_existing_clients() -> None:
    parts = (b"E2EEv1", INIT.ephemeral_public_key, HOST_KEY, bytes(32), NONCE, b"")
    with_aad = replace(INIT, sealed=replace(INIT.sealed, aad=b"a"))

    assert INIT.transcript(HOST_KEY) == hashlib.sha256(b"|".join(parts)).digest()
    assert with_aad.transcript(HOST_KEY) == hashlib.sha256(b"|".join((*parts, b"a"))).digest()


@pytest.mark.parametrize(
    "form",
    [
        {"signatureHex": INIT.signature[:64].hex(), "recid": INIT.signature[64]},
        {"signatureHex": INIT.signature[:64].hex(), "recid": str(INIT.signature[64] + 27)},
        {"signatureHex": "0x" + INIT.signature[:64].hex() + f"{INIT.signature[64] + 27:02x}"},
        {"saltHex": None, "info": None, "aadHex": None, "alg": None, "recid": None},
        {"ephPubHex": "0x" + INIT.ephemeral_public_key.hex().upper()},
    ],
)
def test_every_form_of_existing_clients_opens(form: dict[str, Json]) -> None:
    opened = open_init(reread({**INIT.to_json(), **form}), HOST_SECRET, NATIVE)

    assert opened.plaintext == b'{"jobId":"7"}'
    assert opened.signer == NATIVE.address_of(NATIVE.public_key(CLIENT_SECRET))


def test_salt_and_info_take_part_in_the_key() -> None:
    """Existing clients leave both empty, but the form has them."""
    shared = NATIVE.ecdh_x(EPHEMERAL, HOST_KEY)
    key = hkdf_sha256(shared, salt=b"s" * 32, info=b"i", length=32)
    unsigned = replace(
        INIT,
        salt=b"s" * 32,
        info=b"i",
        sealed=seal_payload(key, NONCE, b"", b"salted", NATIVE),
    )
    signature = NATIVE.sign(CLIENT_SECRET, unsigned.transcript(HOST_KEY))

    assert open_init(replace(unsigned, signature=signature), HOST_SECRET, NATIVE).plaintext == (
        b"salted"
    )


def test_an_init_for_another_host_does_not_open() -> None:
    assert code_of(INIT, secret=b"\5" * 32) == "DECRYPTION_FAILED"


def test_bad_points_and_signatures_are_the_peers_fault() -> None:
    assert code_of(replace(INIT, ephemeral_public_key=bytes(33))) == "INVALID_PAYLOAD"
    assert code_of(replace(INIT, signature=bytes(65))) == "INVALID_PAYLOAD"
    assert code_of(replace(INIT, signature=INIT.signature[:64] + b"\7")) == "INVALID_PAYLOAD"


@given(st.data())
def test_an_altered_init_never_speaks_for_its_signer(data: st.DataObject) -> None:
    """It does not open, or it recovers to a stranger: a signature over anything recovers."""
    signer = NATIVE.address_of(NATIVE.public_key(CLIENT_SECRET))
    name = data.draw(
        st.sampled_from(["ephPubHex", "saltHex", "nonceHex", "ciphertextHex", "signatureHex"])
    )
    value = bytearray.fromhex(cast("str", INIT.to_json()[name]))
    value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))

    try:
        opened = open_init(reread({**INIT.to_json(), name: value.hex()}), HOST_SECRET, NATIVE)
    except RemoteProtocolError:
        return

    # Only the other form of the recovery id names the same key.
    assert opened.signer != signer or (name == "signatureHex" and value[64] >= 27)


def test_the_negative_of_an_ephemeral_key_recovers_to_a_stranger() -> None:
    """Point and negative share x, so it decrypts; the transcript tells them apart."""
    flipped = bytes([INIT.ephemeral_public_key[0] ^ 1]) + INIT.ephemeral_public_key[1:]

    opened = open_init(replace(INIT, ephemeral_public_key=flipped), HOST_SECRET, NATIVE)

    assert opened.signer != NATIVE.address_of(NATIVE.public_key(CLIENT_SECRET))


@given(init_envelopes)
def test_any_init_opens_or_raises_the_one_error(envelope: InitEnvelope) -> None:
    with pytest.raises(RemoteProtocolError):
        open_init(envelope, HOST_SECRET, NATIVE)


@given(chain_ids, addresses, job_ids, addresses)
def test_the_associated_data_of_the_extension_is_unambiguous(
    chain_id: ChainId, contract: Address, job_id: JobId, host: Address
) -> None:
    aad = init_aad(chain_id, contract, job_id, host).decode()

    assert aad.split("|") == ["fabstir/2", str(chain_id), contract, str(job_id), host]


# -- messages of existing clients -----------------------------------------------------------------


@given(byte_strings(32), byte_strings(NONCE_BYTES), st.binary(max_size=30), st.binary())
def test_messages_open_under_the_session_key(
    key: bytes, nonce: bytes, aad: bytes, plaintext: bytes
) -> None:
    sealed = seal_payload(key, nonce, aad, plaintext, NATIVE)

    assert open_payload(key, sealed, NATIVE) == plaintext
    for altered in (replace(sealed, aad=aad + b"x"), replace(sealed, ciphertext=b"")):
        with pytest.raises(RemoteProtocolError, match="does not decrypt") as caught:
            open_payload(key, altered, NATIVE)
        assert caught.value.code == "DECRYPTION_FAILED"


@given(sealed_payloads)
def test_sealed_payloads_round_trip(payload: SealedPayload) -> None:
    fields = Fields(cast("dict[str, object]", payload.to_json()), "payload")

    assert SealedPayload.from_fields(fields) == payload


# -- the extension's channel ----------------------------------------------------------------------

RENTER_EPHEMERAL, HOST_EPHEMERAL = b"\6" * 32, b"\7" * 32
CONTEXT = init_aad(ChainId(31337), Address("0x" + "11" * 20), JobId(7), Address("0x" + "22" * 20))


def channel(
    *,
    is_host: bool,
    session_key: bytes = b"\5" * 32,
    peer: bytes | None = None,
    context: bytes = CONTEXT,
) -> SecureChannel:
    ours, theirs = RENTER_EPHEMERAL, HOST_EPHEMERAL
    if is_host:
        ours, theirs = theirs, ours
    return SecureChannel.derive(
        is_host=is_host,
        session_key=session_key,
        ephemeral_secret=ours,
        peer_ephemeral_public_key=peer or NATIVE.public_key(theirs),
        context=context,
        crypto=NATIVE,
    )


def refusal(receiver: SecureChannel, payload: SealedPayload, binding: str = "b") -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        receiver.open(payload, binding)
    return caught.value.code


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=30), identifiers), max_size=12))
def test_both_directions_carry_messages_in_order(
    messages: list[tuple[bool, bytes, str]],
) -> None:
    renter, host = channel(is_host=False), channel(is_host=True)

    for from_host, plaintext, binding in messages:
        sender, receiver = (host, renter) if from_host else (renter, host)
        assert receiver.open(sender.seal(plaintext, binding), binding) == plaintext


def test_a_replayed_message_is_refused() -> None:
    renter, host = channel(is_host=False), channel(is_host=True)
    first = renter.seal(b"1", "b")
    host.open(first, "b")

    assert refusal(host, first) == "REPLAYED_MESSAGE"


def test_a_reordered_message_is_refused_and_the_right_one_still_counts() -> None:
    renter, host = channel(is_host=False), channel(is_host=True)
    first, second = renter.seal(b"1", "b"), renter.seal(b"2", "b")

    assert refusal(host, second) == "REPLAYED_MESSAGE"
    assert [host.open(message, "b") for message in (first, second)] == [b"1", b"2"]


def test_a_reflected_message_is_refused() -> None:
    renter = channel(is_host=False)

    assert refusal(renter, renter.seal(b"1", "b")) == "DECRYPTION_FAILED"


def test_a_message_of_another_frame_is_refused() -> None:
    renter, host = channel(is_host=False), channel(is_host=True)
    sealed = renter.seal(b"1", "b")

    assert refusal(host, sealed, "c") == "DECRYPTION_FAILED"
    assert refusal(host, replace(sealed, aad=b"c"), "c") == "DECRYPTION_FAILED"
    assert host.open(sealed, "b") == b"1"


@given(st.data())
def test_an_altered_message_is_refused(data: st.DataObject) -> None:
    renter, host = channel(is_host=False), channel(is_host=True)
    sealed = renter.seal(b"something", "b")
    name = data.draw(st.sampled_from(["ciphertext", "nonce", "aad"]))
    value = bytearray(cast("bytes", getattr(sealed, name)))
    value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))

    assert refusal(host, replace(sealed, **{name: bytes(value)})) in {
        "REPLAYED_MESSAGE",
        "DECRYPTION_FAILED",
    }


@pytest.mark.parametrize(
    "other",
    [
        channel(is_host=True, session_key=b"\1" * 32),  # who does not know the init's plaintext
        channel(is_host=True, context=CONTEXT + b"0"),  # another job
        channel(is_host=True, peer=NATIVE.public_key(b"\1" * 32)),  # another handshake
        channel(  # the same x: an altered ephPubHex
            is_host=True,
            peer=bytes([NATIVE.public_key(RENTER_EPHEMERAL)[0] ^ 1])
            + NATIVE.public_key(RENTER_EPHEMERAL)[1:],
        ),
    ],
)
def test_all_of_the_handshake_takes_part_in_the_keys(other: SecureChannel) -> None:
    renter = channel(is_host=False)

    assert refusal(other, renter.seal(b"1", "b")) == "DECRYPTION_FAILED"
    assert refusal(renter, other.seal(b"1", "b")) == "DECRYPTION_FAILED"


def test_a_peer_key_that_is_no_point_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="curve point"):
        channel(is_host=False, peer=bytes(33))


def test_nonces_are_counters_of_one_direction() -> None:
    renter = channel(is_host=False)

    assert [int.from_bytes(renter.seal(b"", "b").nonce, "big") for _ in range(3)] == [0, 1, 2]


names = identifiers | st.sampled_from(["a", "a|b", "b|c", "c", '","', "\\", ""])


@given(st.tuples(names, names, names), st.tuples(names, names, names))
def test_no_two_frames_share_a_binding(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (frame_binding(*one) == frame_binding(*other)) == (one == other)
    assert json.loads(frame_binding(*one)) == list(one)


def test_ids_cannot_move_the_border_between_them() -> None:
    """They could when the binding was joined with bars."""
    assert frame_binding("k", "a|b", "c") != frame_binding("k", "a", "b|c")
