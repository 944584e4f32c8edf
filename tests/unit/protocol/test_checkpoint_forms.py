"""Checkpoints in the forms that existing clients read."""

import hashlib
import json
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import (
    byte_strings,
    checkpoint_deltas,
    checkpoint_entries,
    job_ids,
    secrets,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import JobId
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.checkpoint import (
    CheckpointDelta,
    CheckpointEntry,
    TimedMessage,
    decrypt_delta,
    encode_index,
    encrypt_delta,
)
from fabstir.protocol.envelope import hkdf_sha256

HOST_SECRET, RECOVERY_SECRET = b"\1" * 32, b"\2" * 32
HOST = NATIVE.address_of(NATIVE.public_key(HOST_SECRET))


def signer(message: bytes, signature: str) -> str:
    """As a wallet library recovers a personal_sign."""
    recovered: str = Account.recover_message(encode_defunct(message), signature=signature)
    return recovered.lower()


def encrypted(delta: bytes, recovery_key: bytes) -> bytes:
    return encrypt_delta(
        delta,
        recovery_public_key=recovery_key,
        ephemeral_secret=b"\3" * 32,
        nonce=b"\4" * 24,
        host_secret=HOST_SECRET,
        crypto=NATIVE,
    )


@given(checkpoint_deltas)
def test_a_delta_is_signed_over_its_messages(delta: CheckpointDelta) -> None:
    written = json.loads(delta.encode(HOST_SECRET, NATIVE))

    assert signer(canonical_json(written["messages"]), written["hostSignature"]) == HOST
    names = {"sessionId", "checkpointIndex", "proofHash", "startToken", "endToken", "messages"}
    assert set(written) == {*names, "hostSignature"}


def test_a_partial_message_says_so() -> None:
    message = ChatMessage("assistant", "hi")
    whole = TimedMessage(message=message, timestamp=5)

    assert whole.to_json() == {"role": "assistant", "content": "hi", "timestamp": 5}
    assert TimedMessage(message=message, timestamp=5, is_partial=True).to_json() == {
        "role": "assistant",
        "content": "hi",
        "timestamp": 5,
        "metadata": {"partial": True},
    }


@given(st.binary(max_size=60), secrets, secrets, byte_strings(24))
def test_only_the_recovery_key_opens_a_delta(
    delta: bytes, recovery: bytes, ephemeral: bytes, nonce: bytes
) -> None:
    published = encrypt_delta(
        delta,
        recovery_public_key=NATIVE.public_key(recovery),
        ephemeral_secret=ephemeral,
        nonce=nonce,
        host_secret=HOST_SECRET,
        crypto=NATIVE,
    )

    assert decrypt_delta(published, recovery, NATIVE) == delta
    stranger = (int.from_bytes(recovery, "big") + 1).to_bytes(32, "big")
    with pytest.raises(RemoteProtocolError) as caught:
        decrypt_delta(published, stranger, NATIVE)
    assert caught.value.code == "DECRYPTION_FAILED"


def test_the_encrypted_form_is_that_of_existing_clients() -> None:
    written: dict[str, Any] = json.loads(encrypted(b"{}", NATIVE.public_key(RECOVERY_SECRET)))
    shared = NATIVE.ecdh_x(RECOVERY_SECRET, bytes.fromhex(written["ephemeralPublicKey"][2:]))
    key = hkdf_sha256(
        hashlib.sha256(shared).digest(),
        salt=b"",
        info=b"checkpoint-delta-encryption-v1",
        length=32,
    )
    ciphertext = bytes.fromhex(written["ciphertext"])

    assert NATIVE.open(key, bytes.fromhex(written["nonce"]), b"", ciphertext) == b"{}"
    assert signer(NATIVE.keccak256(ciphertext), written["hostSignature"]) == HOST
    assert (written["encrypted"], written["version"]) == (True, 1)
    assert written["userRecoveryPubKey"] == "0x" + NATIVE.public_key(RECOVERY_SECRET).hex()


def test_a_recovery_key_that_is_no_point_is_refused() -> None:
    with pytest.raises(ValueError, match="public key"):
        encrypted(b"{}", bytes(33))


@pytest.mark.parametrize(
    "altered",
    [
        {"ephemeralPublicKey": "0x" + "02" + "00" * 32},
        {"ephemeralPublicKey": "02"},
        {"nonce": "00" * 23},
        {"ciphertext": "00"},
        {"ciphertext": None},
    ],
)
def test_an_altered_delta_is_the_one_error(altered: dict[str, object]) -> None:
    written = json.loads(encrypted(b"{}", NATIVE.public_key(RECOVERY_SECRET))) | altered

    with pytest.raises(RemoteProtocolError):
        decrypt_delta(canonical_json(written), RECOVERY_SECRET, NATIVE)


@given(st.binary(max_size=60))
def test_garbage_is_the_one_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decrypt_delta(data, RECOVERY_SECRET, NATIVE)


@given(job_ids, st.lists(checkpoint_entries, max_size=3))
def test_the_index_is_signed_over_its_checkpoints(
    job_id: JobId, entries: list[CheckpointEntry]
) -> None:
    written = json.loads(encode_index(job_id, HOST, entries, HOST_SECRET, NATIVE))

    assert signer(canonical_json(written["checkpoints"]), written["hostSignature"]) == HOST
    assert (written["sessionId"], written["hostAddress"]) == (str(job_id), HOST)
    for entry, line in zip(entries, written["checkpoints"], strict=True):
        assert line == {
            "index": entry.index,
            "proofHash": entry.proof_hash,
            "proofCid": entry.proof_cid,
            "deltaCid": entry.delta_cid,
            "tokenRange": [entry.start_token, entry.end_token],
            "timestamp": entry.timestamp,
            "encrypted": entry.is_encrypted,
        }
