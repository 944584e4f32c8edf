"""Both halves of a handshake: what each refuses, and whom it takes the other for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.protocol.exchange.answering import DIGEST, DOMAIN
from tests.unit.protocol.exchange.meeting import (
    ENCRYPTION_SECRET,
    HOST,
    JOB,
    NOW,
    PARTY,
    PRICE,
    SESSION_SECRET,
    WALLET_SECRET,
    era_c_init,
    introduction,
    randomness,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError, SessionRefused
from fabstir.primitives.ids import Address, ChainId, JobId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.authorization import SessionKeyAuthorization, SignedAuthorization
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.commitments import seed_commitment
from fabstir.protocol.exchange.handshake import (
    Greeting,
    Introduction,
    OpenHandshake,
    answer_init,
    introduce,
    read_init,
)
from fabstir.protocol.limits import (
    MAX_AUTHORIZATION_LIFETIME,
    MAX_UNACKNOWLEDGED_TOKENS,
    RECEIPT_INTERVAL_TOKENS,
)
from fabstir.protocol.payloads import ExtensionTerms
from fabstir.protocol.receipts import ChainHead

OTHER = Address("0x" + "77" * 20)
SIGNER = NATIVE.address_of(NATIVE.public_key(SESSION_SECRET))
WALLET = NATIVE.address_of(NATIVE.public_key(WALLET_SECRET))
TERMS = ExtensionTerms(
    model_digest=DIGEST,
    max_model_len=4096,
    price_per_token=PRICE,
    receipt_interval=RECEIPT_INTERVAL_TOKENS,
    max_unacknowledged=MAX_UNACKNOWLEDGED_TOKENS,
    seed_commitment=seed_commitment(bytes([3]) * 32, NATIVE),
    sequence=ChainHead().sequence,
    receipt_hash=ChainHead().hash,
    cumulative_tokens=TokenCount(0),
)


def authorized(**changes: Any) -> Introduction:
    """An introduction whose authorization says something else."""
    valid = SessionKeyAuthorization(
        job_id=JOB, host=HOST, session_key=SIGNER, expires_at=int(NOW) + 600
    )
    authorization = replace(valid, **changes).sign(WALLET_SECRET, DOMAIN, NATIVE)
    return replace(introduction(), authorization=authorization)


def greet(known: Introduction | None = None) -> OpenHandshake:
    return introduce(PARTY, JOB, PRICE, known or introduction(), randomness())


def read(message: EncryptedSessionInit) -> Greeting:
    return read_init(message, PARTY, ENCRYPTION_SECRET)


# -- the host's half ------------------------------------------------------------------------------


def test_a_wallet_speaks_for_the_key_that_it_authorized() -> None:
    assert read(greet().init).wallet(NOW) == WALLET


def test_an_existing_client_speaks_for_itself() -> None:
    greeting = read(era_c_init())

    assert (greeting.wallet(NOW), greeting.is_proof_due) == (SIGNER, False)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"job_id": JobId(10)}, "JOB_MISMATCH"),
        ({"host": OTHER}, "JOB_MISMATCH"),
        ({"expires_at": int(NOW)}, "AUTHORIZATION_EXPIRED"),
        ({"expires_at": int(NOW) + MAX_AUTHORIZATION_LIFETIME + 1}, "AUTHORIZATION_EXPIRED"),
    ],
)
def test_an_authorization_for_something_else_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(SessionRefused) as refused:
        read(greet(authorized(**changes)).init).wallet(NOW)

    assert refused.value.code == code


def test_an_authorization_of_another_key_speaks_for_nobody() -> None:
    assert read(greet(authorized(session_key=OTHER)).init).wallet(NOW) is None


@given(st.binary(min_size=65, max_size=65))
def test_a_signature_of_nobody_speaks_for_nobody_that_we_know(signature: bytes) -> None:
    known = introduction()
    forged = SignedAuthorization(known.authorization.authorization, signature)

    assert read(greet(replace(known, authorization=forged)).init).wallet(NOW) != WALLET


def test_an_init_that_was_made_for_another_host_is_refused() -> None:
    elsewhere = introduce(replace(PARTY, host=OTHER), JOB, PRICE, introduction(), randomness())

    with pytest.raises(SessionRefused, match="not bound"):
        read(elsewhere.init).wallet(NOW)


def test_another_chain_is_refused() -> None:
    with pytest.raises(SessionRefused) as refused:
        read(replace(greet().init, chain_id=ChainId(1)))

    assert refused.value.code == "WRONG_CHAIN"


@pytest.mark.parametrize("named", [{"job_id": JobId(10)}, {"session_id": "10"}])
def test_an_init_of_two_jobs_is_refused(named: dict[str, Any]) -> None:
    with pytest.raises(SessionRefused) as refused:
        read(replace(greet().init, **named))

    assert refused.value.code == "JOB_MISMATCH"
    with pytest.raises(SessionRefused):
        read(era_c_init(inside=JobId(10)))


def test_who_is_not_the_depositor_is_told_what_it_lacks() -> None:
    with_proof = read(greet().init).not_depositor(OTHER)
    without = read(era_c_init()).not_depositor(OTHER)

    assert with_proof.code == without.code == "NOT_DEPOSITOR"
    assert "authorized this session key" in str(with_proof)
    assert "shows no authorization" in str(without)


# -- the renter's half ----------------------------------------------------------------------------


def test_both_ends_have_the_same_keys_afterwards() -> None:
    handshake = greet()
    _, ack = answer_init(read(handshake.init), TERMS, randomness(1))

    _, terms = handshake.finish(ack)

    assert terms == TERMS


@pytest.mark.parametrize(
    "changes", [{"session_id": "10"}, {"job_id": JobId(10)}, {"chain_id": ChainId(1)}, {"id": None}]
)
def test_an_answer_to_another_handshake_is_refused(changes: dict[str, Any]) -> None:
    handshake = greet()
    _, ack = answer_init(read(handshake.init), TERMS, randomness(1))

    with pytest.raises(RemoteProtocolError, match="another session"):
        handshake.finish(replace(ack, **changes))


def test_a_host_without_receipts_is_refused() -> None:
    handshake = greet()
    _, ack = answer_init(read(handshake.init), TERMS, randomness(1))

    with pytest.raises(RemoteProtocolError, match="choose another host"):
        handshake.finish(replace(ack, extension=None))


def test_an_answer_of_somebody_between_does_not_open() -> None:
    handshake = greet()
    _, ack = answer_init(read(handshake.init), TERMS, randomness(1))
    assert ack.extension is not None
    forged = replace(ack.extension, ephemeral_public_key=NATIVE.public_key(bytes([8]) * 32))

    with pytest.raises(RemoteProtocolError):
        handshake.finish(replace(ack, extension=forged))
