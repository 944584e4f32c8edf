"""Checkpoints in the forms that existing clients read."""

import hashlib
import json
from dataclasses import replace
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
from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.protocol.checkpoint import (
    CheckpointDelta,
    CheckpointEntry,
    TimedMessage,
    decode_index,
    decrypt_delta,
    encode_index,
    encrypt_delta,
    index_path,
    open_delta,
)
from fabstir.protocol.content import Message
from fabstir.protocol.eip712 import personal_digest
from fabstir.protocol.envelope import hkdf_sha256

HOST_SECRET, RECOVERY_SECRET = b"\1" * 32, b"\2" * 32
HOST = NATIVE.address_of(NATIVE.public_key(HOST_SECRET))
OTHER = NATIVE.address_of(NATIVE.public_key(b"\5" * 32))


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
    message = Message("assistant", "hi")
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


def personal_sign(message: bytes) -> str:
    signature = NATIVE.sign(HOST_SECRET, personal_digest(message, NATIVE))
    return f"0x{signature[:64].hex()}{signature[64] + 27:02x}"


def in_order(entries: list[CheckpointEntry]) -> list[CheckpointEntry]:
    return [
        replace(
            entry,
            start_token=min(entry.start_token, entry.end_token),
            end_token=max(entry.start_token, entry.end_token),
        )
        for entry in entries
    ]


@given(job_ids, st.lists(checkpoint_entries, max_size=3).map(in_order))
def test_an_index_is_read_as_it_was_written(job_id: JobId, entries: list[CheckpointEntry]) -> None:
    index = encode_index(job_id, HOST, entries, HOST_SECRET, NATIVE)

    assert decode_index(index, job_id, HOST, NATIVE) == tuple(entries)


@given(checkpoint_deltas, secrets)
def test_a_delta_is_read_as_it_was_published(delta: CheckpointDelta, recovery: bytes) -> None:
    clear = delta.encode(HOST_SECRET, NATIVE)

    published = encrypted(clear, NATIVE.public_key(recovery))

    assert open_delta(published, HOST, recovery, NATIVE) == delta
    assert open_delta(clear, HOST, recovery, NATIVE) == delta


def test_nobody_signs_for_the_host() -> None:
    delta = CheckpointDelta(
        session_id="7",
        checkpoint_index=0,
        proof_hash=Hash32("0x" + "11" * 32),
        start_token=0,
        end_token=5,
        messages=(),
    )
    clear = delta.encode(HOST_SECRET, NATIVE)
    index = encode_index(JobId(7), HOST, [], HOST_SECRET, NATIVE)

    for published in (clear, encrypted(clear, NATIVE.public_key(RECOVERY_SECRET))):
        with pytest.raises(RemoteProtocolError, match="not by the host"):
            open_delta(published, OTHER, RECOVERY_SECRET, NATIVE)
    with pytest.raises(RemoteProtocolError, match="another session's"):
        decode_index(index, JobId(7), OTHER, NATIVE)
    with pytest.raises(RemoteProtocolError, match="another session's"):
        decode_index(index, JobId(8), HOST, NATIVE)
    with pytest.raises(RemoteProtocolError, match="not by the host"):
        decode_index(index.replace(HOST.encode(), OTHER.encode()), JobId(7), OTHER, NATIVE)


def test_a_changed_message_or_checkpoint_is_not_the_hosts() -> None:
    message = TimedMessage(message=Message("user", "pay 5"), timestamp=5)
    entry = CheckpointEntry(
        index=0,
        proof_hash=Hash32("0x" + "11" * 32),
        proof_cid="blobb",
        delta_cid="blobc",
        start_token=0,
        end_token=5,
        timestamp=6,
        is_encrypted=True,
    )
    delta = CheckpointDelta(
        session_id="7",
        checkpoint_index=0,
        proof_hash=entry.proof_hash,
        start_token=0,
        end_token=5,
        messages=(message,),
    ).encode(HOST_SECRET, NATIVE)
    index = encode_index(JobId(7), HOST, [entry], HOST_SECRET, NATIVE)

    with pytest.raises(RemoteProtocolError, match="signed by"):
        open_delta(delta.replace(b"pay 5", b"pay 9"), HOST, RECOVERY_SECRET, NATIVE)
    with pytest.raises(RemoteProtocolError, match="signed by"):
        decode_index(index.replace(b"blobc", b"blobd"), JobId(7), HOST, NATIVE)


def test_the_names_of_older_hosts_are_read() -> None:
    checkpoints: list[Json] = [
        {
            "index": 0,
            "proofHash": "0x" + "11" * 32,
            "deltaCID": "blobb",
            "tokenRange": [0, 1000],
            "timestamp": 1700000000000,
        }
    ]
    index: Json = {
        "sessionId": "7",
        "hostAddress": HOST,
        "checkpoints": checkpoints,
        "messagesSignature": "0x00",
        "checkpointsSignature": personal_sign(canonical_json(checkpoints)),
    }

    (entry,) = decode_index(canonical_json(index), JobId(7), HOST, NATIVE)

    assert (entry.delta_cid, entry.proof_cid, entry.is_encrypted) == ("blobb", "", False)
    assert (entry.start_token, entry.end_token) == (0, 1000)


@given(st.binary(max_size=60))
def test_garbage_is_no_index_and_no_delta(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_index(data, JobId(7), HOST, NATIVE)
    with pytest.raises(RemoteProtocolError):
        open_delta(data, HOST, RECOVERY_SECRET, NATIVE)


def test_the_index_has_its_place() -> None:
    mixed = Address("0x" + "aB" * 20)

    assert index_path(mixed, JobId(12)) == f"home/checkpoints/0x{'ab' * 20}/12/index.json"
