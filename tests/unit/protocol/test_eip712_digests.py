"""Typed data against eth-account: what wallets sign is what we check."""

from collections.abc import Sequence
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import (
    acknowledgements,
    authorizations,
    byte_strings,
    domains,
    host_records,
    receipts,
    secrets,
    texts,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import canonical_json
from fabstir.primitives.ids import Hash32, hash32
from fabstir.protocol.authorization import SESSION_KEY_TYPE, SessionKeyAuthorization
from fabstir.protocol.eip712 import (
    Domain,
    FieldValue,
    is_signed_by,
    personal_digest,
    recover_address,
    sign_digest,
    struct_hash,
    typed_digest,
)
from fabstir.protocol.host_record import HOST_RECORD_TYPE
from fabstir.protocol.receipts import (
    ACKNOWLEDGEMENT_TYPE,
    RECEIPT_TYPE,
    Acknowledgement,
    Receipt,
)


def peer_encoding(domain: Domain, type_string: str, values: Sequence[FieldValue]) -> Any:
    """eth-account's encoding of the same struct."""
    name, _, rest = type_string.partition("(")
    fields = [field.split(" ") for field in rest[:-1].split(",")]
    message = {
        field: bytes.fromhex(value[2:]) if kind == "bytes32" and isinstance(value, str) else value
        for (kind, field), value in zip(fields, values, strict=True)
    }
    return encode_typed_data(
        domain_data={
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract,
        },
        message_types={name: [{"name": field, "type": kind} for kind, field in fields]},
        message_data=message,
    )


def peer_digest(domain: Domain, type_string: str, values: Sequence[FieldValue]) -> Hash32:
    encoded = peer_encoding(domain, type_string, values)
    return hash32(NATIVE.keccak256(b"\x19\x01" + encoded.header + encoded.body))


@given(domains, authorizations)
def test_session_keys(domain: Domain, value: SessionKeyAuthorization) -> None:
    fields = (value.job_id, value.host, value.session_key, value.expires_at)

    assert value.digest(domain, NATIVE) == peer_digest(domain, SESSION_KEY_TYPE, fields)


@given(domains, receipts)
def test_receipts(domain: Domain, value: Receipt) -> None:
    fields = (
        value.job_id,
        value.sequence,
        value.previous,
        value.work.model_digest,
        value.work.request_digest,
        value.work.additions_digest,
        value.work.output_commitment,
        value.work.num_prompt_tokens,
        value.work.num_completion_tokens,
        value.cumulative_tokens,
        value.cumulative_cost,
    )

    assert value.hash(domain, NATIVE) == peer_digest(domain, RECEIPT_TYPE, fields)


@given(domains, acknowledgements)
def test_acknowledgements(domain: Domain, value: Acknowledgement) -> None:
    fields = (value.job_id, value.sequence, value.receipt_hash, value.cumulative_tokens)

    assert value.digest(domain, NATIVE) == peer_digest(domain, ACKNOWLEDGEMENT_TYPE, fields)


@given(st.data())
def test_host_records(data: st.DataObject) -> None:
    record = data.draw(host_records(b"\1" * 32))
    content = {
        "host": record.host,
        "peerId": record.peer_id,
        "addresses": list(record.addresses),
        "apiUrl": record.api_url,
        "models": [model.to_json() for model in record.models],
        "chainId": record.chain_id,
        "registry": record.registry,
        "sequence": record.sequence,
        "expiresAt": record.expires_at,
    }
    digest = hash32(NATIVE.keccak256(canonical_json(content)))
    fields = (record.host, digest, record.sequence, record.expires_at)
    domain = Domain(record.chain_id, record.registry)

    assert record.digest(NATIVE) == peer_digest(domain, HOST_RECORD_TYPE, fields)


@given(domains, texts(20))
def test_text_fields(domain: Domain, text: str) -> None:
    struct = struct_hash("Mail(string text)", (text,), NATIVE)

    assert typed_digest(domain, struct, NATIVE) == peer_digest(domain, "Mail(string text)", (text,))


@given(secrets, domains, acknowledgements)
def test_our_signature_is_the_wallets(
    secret: bytes, domain: Domain, value: Acknowledgement
) -> None:
    fields = (value.job_id, value.sequence, value.receipt_hash, value.cumulative_tokens)
    wallet = Account.from_key(secret)
    theirs = wallet.sign_message(peer_encoding(domain, ACKNOWLEDGEMENT_TYPE, fields)).signature

    ours = value.sign(secret, domain, NATIVE)

    assert ours.signature == bytes(theirs)
    assert recover_address(ours.signature, value.digest(domain, NATIVE), NATIVE) == (
        wallet.address.lower()
    )


@given(secrets, st.binary(max_size=40))
def test_personal_signatures_are_the_wallets(secret: bytes, message: bytes) -> None:
    theirs = Account.from_key(secret).sign_message(encode_defunct(message)).signature

    assert sign_digest(secret, hash32(personal_digest(message, NATIVE)), NATIVE) == bytes(theirs)


@given(secrets, byte_strings(32).map(hash32), st.binary(max_size=66))
def test_a_malformed_signature_is_simply_not_ones_own(
    secret: bytes, digest: Hash32, noise: bytes
) -> None:
    signer = NATIVE.address_of(NATIVE.public_key(secret))
    signature = sign_digest(secret, digest, NATIVE)

    assert is_signed_by(signer, signature, digest, NATIVE)
    assert not is_signed_by(signer, noise, digest, NATIVE)
    assert not is_signed_by(signer, signature + b"\0", digest, NATIVE)


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        ("uint8", 256, ValueError),
        ("uint64", -1, ValueError),
        ("uint64", 1 << 64, ValueError),
        ("address", "0x" + "11" * 32, ValueError),
        ("bytes32", "0x" + "11" * 20, ValueError),
        ("bytes32", 5, TypeError),
        ("uint64", "5", TypeError),
        ("string", 5, TypeError),
        ("bool", 1, TypeError),
    ],
)
def test_values_that_do_not_fit_their_type(
    kind: str, value: FieldValue, error: type[Exception]
) -> None:
    with pytest.raises(error):
        struct_hash(f"T({kind} x)", (value,), NATIVE)


def test_a_struct_has_as_many_values_as_fields() -> None:
    with pytest.raises(ValueError, match="zip"):
        struct_hash("T(uint8 x,uint8 y)", (1,), NATIVE)
