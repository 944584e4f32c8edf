"""The known answers of docs/protocol.md, recomputed: for each vector, its outputs from its inputs.

Each step is written out with the primitives where the document states a preimage, and compared
with what the code under test makes of the same inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, model_cid, model_cid_sha256
from fabstir.primitives.encoding import canonical_json, encode_multibase
from fabstir.primitives.ids import Address, ChainId, Hash32, JobId, ModelId, PeerId, hash32
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.protocol.additions import parse_additions, with_additions
from fabstir.protocol.answers import ToolCallPiece
from fabstir.protocol.authorization import SESSION_KEY_TYPE, SessionKeyAuthorization
from fabstir.protocol.checkpoint import (
    CheckpointDelta,
    CheckpointEntry,
    TimedMessage,
    encode_index,
    encrypt_delta,
)
from fabstir.protocol.commitments import (
    OutputCommitment,
    additions_digest,
    derive_seed,
    request_digest,
    seed_commitment,
)
from fabstir.protocol.content import Message
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.envelope import (
    SecureChannel,
    frame_binding,
    hkdf_sha256,
    init_aad,
    open_init,
    seal_init,
    seal_payload,
)
from fabstir.protocol.fields import Fields
from fabstir.protocol.host_record import HOST_RECORD_TYPE, HostModel, HostRecord
from fabstir.protocol.receipts import (
    ACKNOWLEDGEMENT_TYPE,
    RECEIPT_TYPE,
    Acknowledgement,
    Receipt,
    SignedReceipt,
    Work,
)
from fabstir.protocol.request import ChatRequest

Inputs = dict[str, Any]
keccak = NATIVE.keccak256


def _hex(value: Inputs, name: str) -> bytes:
    return bytes.fromhex(value[name])


def _domain(value: Inputs) -> Domain:
    return Domain(ChainId(value["chainId"]), Address(value["verifyingContract"]))


def _typed(domain: Domain, type_string: str, digest: Hash32) -> dict[str, str]:
    return {
        "typeHash": keccak(type_string.encode()).hex(),
        "domainSeparator": domain.separator(NATIVE).hex(),
        "digest": digest,
    }


def init(value: Inputs) -> Inputs:
    """Section 5: the handshake of existing clients."""
    host_secret, plaintext = _hex(value, "hostSecret"), value["plaintext"].encode()
    host_key = NATIVE.public_key(host_secret)
    envelope = seal_init(
        plaintext,
        host_public_key=host_key,
        ephemeral_secret=_hex(value, "ephemeralSecret"),
        signing_secret=_hex(value, "signingSecret"),
        nonce=_hex(value, "nonce"),
        aad=value["aad"].encode(),
        crypto=NATIVE,
    )
    shared = NATIVE.ecdh_x(host_secret, envelope.ephemeral_public_key)
    key = hkdf_sha256(shared, salt=bytes(32), info=b"", length=32)
    sealed = NATIVE.seal(key, _hex(value, "nonce"), value["aad"].encode(), plaintext)
    assert sealed == envelope.sealed.ciphertext
    transcript = b"|".join(
        [b"E2EEv1", envelope.ephemeral_public_key, host_key, bytes(32), _hex(value, "nonce"), b""]
        + ([value["aad"].encode()] if value["aad"] else [])
    )
    assert hashlib.sha256(transcript).digest() == envelope.transcript(host_key)
    return {
        "hostPublicKey": host_key.hex(),
        "ephPubHex": envelope.ephemeral_public_key.hex(),
        "sharedX": shared.hex(),
        "key": key.hex(),
        "ciphertextHex": sealed.hex(),
        "transcript": transcript.hex(),
        "transcriptHash": hashlib.sha256(transcript).hexdigest(),
        "signatureHex": envelope.signature.hex(),
        "signer": open_init(envelope, host_secret, NATIVE).signer,
    }


def message(value: Inputs) -> Inputs:
    """Section 5: a message of existing clients."""
    sealed = seal_payload(
        _hex(value, "sessionKey"),
        _hex(value, "nonce"),
        value["aad"].encode(),
        value["plaintext"].encode(),
        NATIVE,
    )
    return {"ciphertextHex": sealed.ciphertext.hex(), "aadHex": sealed.aad.hex()}


def channel(value: Inputs) -> Inputs:
    """Section 6: the keys of the extension, and the first frame of each direction."""
    renter_secret, host_secret = _hex(value, "renterEphemeral"), _hex(value, "hostEphemeral")
    renter_key, host_key = NATIVE.public_key(renter_secret), NATIVE.public_key(host_secret)
    context = init_aad(
        ChainId(value["chainId"]),
        Address(value["verifyingContract"]),
        JobId(int(value["jobId"])),
        Address(value["host"]),
    )
    shared = NATIVE.ecdh_x(renter_secret, host_key)
    keys = hkdf_sha256(
        shared + _hex(value, "sessionKey"),
        salt=hashlib.sha256(context).digest(),
        info=b"fabstir/2 directions" + renter_key + host_key,
        length=64,
    )
    to_host, to_renter = keys[:32], keys[32:]

    def side(*, is_host: bool) -> SecureChannel:
        return SecureChannel.derive(
            is_host=is_host,
            session_key=_hex(value, "sessionKey"),
            ephemeral_secret=host_secret if is_host else renter_secret,
            peer_ephemeral_public_key=renter_key if is_host else host_key,
            context=context,
            crypto=NATIVE,
        )

    binding = frame_binding(*value["frame"])
    first = side(is_host=False).seal(value["plaintext"].encode(), binding)
    answer = side(is_host=True).seal(value["plaintext"].encode(), binding)
    nonce = bytes(24)
    for key, sealed in ((to_host, first), (to_renter, answer)):
        plaintext = value["plaintext"].encode()
        assert sealed.ciphertext == NATIVE.seal(key, nonce, binding.encode(), plaintext)
    return {
        "context": context.decode(),
        "sharedX": shared.hex(),
        "keyToHost": to_host.hex(),
        "keyToRenter": to_renter.hex(),
        "binding": binding,
        "firstToHost": first.ciphertext.hex(),
        "firstToRenter": answer.ciphertext.hex(),
    }


def session_key(value: Inputs) -> Inputs:
    """Section 7: the depositor's authorization."""
    domain = _domain(value)
    authorization = SessionKeyAuthorization(
        job_id=JobId(int(value["jobId"])),
        host=Address(value["host"]),
        session_key=Address(value["sessionKey"]),
        expires_at=value["expiresAt"],
    )
    signed = authorization.sign(_hex(value, "depositorSecret"), domain, NATIVE)
    return {
        **_typed(domain, SESSION_KEY_TYPE, authorization.digest(domain, NATIVE)),
        "signer": signed.signer(domain, NATIVE),
        "json": signed.to_json(),
    }


def receipt(value: Inputs) -> Inputs:
    """Section 9: a receipt."""
    domain = _domain(value)
    link = Receipt(
        job_id=JobId(int(value["jobId"])),
        sequence=value["sequence"],
        previous=Hash32(value["previous"]),
        work=Work(
            model_digest=Hash32(value["modelDigest"]),
            request_digest=Hash32(value["requestDigest"]),
            additions_digest=Hash32(value["additionsDigest"]),
            output_commitment=Hash32(value["outputCommitment"]),
            num_prompt_tokens=TokenCount(value["numPromptTokens"]),
            num_completion_tokens=TokenCount(value["numCompletionTokens"]),
        ),
        cumulative_tokens=TokenCount(value["cumulativeTokens"]),
        cumulative_cost=Wei(int(value["cumulativeCost"])),
    )
    digest = link.hash(domain, NATIVE)
    signature = NATIVE.sign(_hex(value, "hostSecret"), bytes.fromhex(digest[2:]))
    with_v = signature[:64] + bytes([signature[64] + 27])
    assert SignedReceipt.from_fields(Fields(SignedReceipt(link, with_v).to_json(), "")) == (
        SignedReceipt(link, with_v)
    )
    return {**_typed(domain, RECEIPT_TYPE, digest), "signature": "0x" + with_v.hex()}


def acknowledgement(value: Inputs) -> Inputs:
    """Section 9: the renter's answer to a receipt."""
    domain = _domain(value)
    unsigned = Acknowledgement(
        job_id=JobId(int(value["jobId"])),
        sequence=value["sequence"],
        receipt_hash=Hash32(value["receiptHash"]),
        cumulative_tokens=TokenCount(value["cumulativeTokens"]),
    )
    signed = unsigned.sign(_hex(value, "sessionSecret"), domain, NATIVE)
    return {
        **_typed(domain, ACKNOWLEDGEMENT_TYPE, unsigned.digest(domain, NATIVE)),
        "plaintext": signed.encode().decode(),
    }


def request(value: Inputs) -> Inputs:
    """Section 9: the digest of what was executed."""
    salt = _hex(value, "salt")
    asked = ChatRequest.from_fields(Fields(value["request"], "request"))
    added = parse_additions(Fields(value, "receipt"), "additions")
    used = asked.with_seed(value["seed"])
    executed = replace(used, messages=with_additions(used.messages, added))
    canonical = canonical_json(executed.to_json())
    preimage = b"fabstir/request/2" + salt + keccak(canonical)
    assert hash32(keccak(preimage)) == request_digest(executed, salt, NATIVE)
    additions = canonical_json(value["additions"])
    assert additions_digest(added, salt, NATIVE) == hash32(
        keccak(b"fabstir/additions/2" + salt + keccak(additions))
    )
    return {
        "canonical": canonical.decode(),
        "preimage": preimage.hex(),
        "requestDigest": hash32(keccak(preimage)),
        "additionsDigest": additions_digest(added, salt, NATIVE),
    }


def output(value: Inputs) -> Inputs:
    """Section 9: the commitment to what was answered, as two receipts say it."""
    committed = keccak(b"fabstir/output/2" + _hex(value, "salt"))
    commitment = OutputCommitment(_hex(value, "salt"), NATIVE)
    preimages: list[str] = []
    values: list[str] = []
    for segment in value["segments"]:
        ids, content = segment["tokenIds"], segment["content"]
        preimage = committed + len(ids).to_bytes(4, "big")
        preimage += b"".join(token.to_bytes(4, "big") for token in ids)
        preimage += keccak(canonical_json(content))
        committed = keccak(preimage)
        commitment.add(
            ids,
            content["text"],
            reasoning=content.get("reasoning", ""),
            tool_calls=[ToolCallPiece(**call) for call in content.get("tool_calls", ())],
        )
        assert commitment.value() == hash32(committed)
        commitment.receipted()
        preimages.append(preimage.hex())
        values.append(hash32(committed))
    return {"preimages": preimages, "outputCommitments": values}


def seed(value: Inputs) -> Inputs:
    """Section 9: a seed that nobody chose."""
    client, host = _hex(value, "clientNonce"), _hex(value, "hostNonce")
    preimage = b"fabstir/seed/2" + client + host + int(value["jobId"]).to_bytes(32, "big")
    number = int.from_bytes(keccak(preimage)[:8], "big") % ((1 << 32) - 1)
    assert number == derive_seed(client, host, int(value["jobId"]), NATIVE)
    return {
        "seedCommitment": seed_commitment(host, NATIVE),
        "preimage": preimage.hex(),
        "seed": number,
    }


def delta(value: Inputs) -> Inputs:
    """Section 10: a checkpoint's delta, signed, then encrypted."""
    host_secret, recovery_secret = _hex(value, "hostSecret"), _hex(value, "recoverySecret")
    messages = tuple(
        TimedMessage(message=Message(m["role"], m["content"]), timestamp=m["timestamp"])
        for m in value["messages"]
    )
    plain = CheckpointDelta(
        session_id=value["sessionId"],
        checkpoint_index=value["checkpointIndex"],
        proof_hash=Hash32(value["proofHash"]),
        start_token=value["startToken"],
        end_token=value["endToken"],
        messages=messages,
    ).encode(host_secret, NATIVE)
    published = encrypt_delta(
        plain,
        recovery_public_key=NATIVE.public_key(recovery_secret),
        ephemeral_secret=_hex(value, "ephemeralSecret"),
        nonce=_hex(value, "nonce"),
        host_secret=host_secret,
        crypto=NATIVE,
    )
    ephemeral = NATIVE.public_key(_hex(value, "ephemeralSecret"))
    shared = NATIVE.ecdh_x(recovery_secret, ephemeral)
    key = hkdf_sha256(
        hashlib.sha256(shared).digest(),
        salt=b"",
        info=b"checkpoint-delta-encryption-v1",
        length=32,
    )
    assert NATIVE.seal(key, _hex(value, "nonce"), b"", plain).hex() in published.decode()
    return {"key": key.hex(), "plaintext": plain.decode(), "published": published.decode()}


def index(value: Inputs) -> Inputs:
    """Section 10: the list of a session's claims."""
    entries = [
        CheckpointEntry(
            index=entry["index"],
            proof_hash=Hash32(entry["proofHash"]),
            proof_cid=entry["proofCid"],
            delta_cid=entry["deltaCid"],
            start_token=entry["tokenRange"][0],
            end_token=entry["tokenRange"][1],
            timestamp=entry["timestamp"],
            is_encrypted=entry["encrypted"],
        )
        for entry in value["checkpoints"]
    ]
    secret = _hex(value, "hostSecret")
    host = NATIVE.address_of(NATIVE.public_key(secret))
    body = encode_index(JobId(int(value["sessionId"])), host, entries, secret, NATIVE)
    return {"body": body.decode()}


def blob(value: Inputs) -> Inputs:
    """Section 10: the identifier of a blob."""
    data = value["text"].encode()
    identifier = BlobId(NATIVE.blake3(data), len(data))
    return {
        "bytes": identifier.to_bytes().hex(),
        "base32": identifier.encode("b"),
        "base58": identifier.encode("z"),
    }


def provider(value: Inputs) -> Inputs:
    """Section 11: where the providers of a model are found."""
    model_id = hash32(keccak(f"{value['repo']}/{value['file']}".encode()))
    cid, generic = model_cid(ModelId(model_id)), model_cid_sha256(ModelId(model_id))
    return {
        "modelId": model_id,
        "cid": encode_multibase(cid, "b"),
        "dhtKey": cid[2:].hex(),
        "cidSha256": encode_multibase(generic, "b"),
        "dhtKeySha256": generic[2:].hex(),
    }


def host_record(value: Inputs) -> Inputs:
    """Section 11: a host's record, as its bytes."""
    secret = _hex(value, "hostSecret")
    models = tuple(
        HostModel(
            model_id=ModelId(model["modelId"]),
            name=model["name"],
            max_model_len=model["maxModelLen"],
            prices=tuple(
                (Address(token), PricePerToken(int(price)))
                for token, price in sorted(model["prices"].items())
            ),
        )
        for model in value["models"]
    )
    record = HostRecord(
        host=NATIVE.address_of(NATIVE.public_key(secret)),
        peer_id=PeerId(value["peerId"]),
        addresses=tuple(value["addresses"]),
        api_url=value["apiUrl"],
        models=models,
        chain_id=ChainId(value["chainId"]),
        registry=Address(value["registry"]),
        sequence=value["sequence"],
        expires_at=value["expiresAt"],
    )
    encoded = record.encode_signed(secret, NATIVE)
    assert HostRecord.decode(encoded, NATIVE) == record
    content = {name: field for name, field in value.items() if name != "hostSecret"}
    canonical = canonical_json({**content, "host": record.host})
    assert canonical.decode() in encoded.decode()
    domain = Domain(record.chain_id, record.registry)
    return {
        "content": hash32(keccak(canonical)),
        **_typed(domain, HOST_RECORD_TYPE, record.digest(NATIVE)),
        "bytes": encoded.decode(),
    }


def challenge(value: Inputs) -> Inputs:
    """Section 3: how a client learns a host's key without the chain."""
    digest = hashlib.sha256(_hex(value, "challenge")).digest()
    signature = NATIVE.sign(_hex(value, "encryptionSecret"), digest)
    assert NATIVE.recover(signature, digest) == NATIVE.public_key(_hex(value, "encryptionSecret"))
    return {
        "signature": signature[:64].hex(),
        "recid": signature[64],
        "publicKey": NATIVE.public_key(_hex(value, "encryptionSecret")).hex(),
    }


VECTORS: Final[dict[str, Callable[[Inputs], Inputs]]] = {
    "challenge": challenge,
    "init": init,
    "message": message,
    "channel": channel,
    "session key": session_key,
    "request": request,
    "output": output,
    "seed": seed,
    "receipt": receipt,
    "acknowledgement": acknowledgement,
    "blob": blob,
    "delta": delta,
    "index": index,
    "provider": provider,
    "host record": host_record,
}
