"""Host records: one byte form each, signed by the wallet that they name."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import host_records, secrets

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, ChainId, ModelId, PeerId
from fabstir.primitives.units import PricePerToken
from fabstir.protocol.host_record import HostModel, HostRecord
from fabstir.protocol.limits import (
    MAX_HOST_RECORD_ADDRESSES,
    MAX_HOST_RECORD_BYTES,
    MAX_HOST_RECORD_MODELS,
)

SECRET = b"\1" * 32
TOKEN = Address("0x" + "ab" * 20)
RECORD = HostRecord(
    host=NATIVE.address_of(NATIVE.public_key(SECRET)),
    peer_id=PeerId("12D3KooW"),
    addresses=("/ip4/127.0.0.1/tcp/9000",),
    api_url="http://127.0.0.1:8080",
    models=(
        HostModel(
            model_id=ModelId("0x" + "cd" * 32),
            name="repo/file.gguf",
            max_model_len=2048,
            prices=((TOKEN, PricePerToken(5)),),
        ),
    ),
    chain_id=ChainId(31337),
    registry=Address("0x" + "11" * 20),
    sequence=1,
    expires_at=1_800_000_000,
)


def written() -> dict[str, Any]:
    return json.loads(RECORD.encode_signed(SECRET, NATIVE))


def refusal(data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        HostRecord.decode(data, NATIVE)
    return str(caught.value)


@given(st.data(), secrets)
def test_round_trip(data: st.DataObject, secret: bytes) -> None:
    record = data.draw(host_records(secret))
    encoded = record.encode_signed(secret, NATIVE)

    if len(encoded) <= MAX_HOST_RECORD_BYTES:
        assert HostRecord.decode(encoded, NATIVE) == record
    else:
        assert "longer than" in refusal(encoded)


@settings(max_examples=300)
@given(st.data())
def test_no_other_bytes_carry_the_signature(data: st.DataObject) -> None:
    encoded = RECORD.encode_signed(SECRET, NATIVE)
    start = data.draw(st.integers(0, len(encoded)))
    end = data.draw(st.integers(start, min(len(encoded), start + 4)))
    altered = encoded[:start] + data.draw(st.binary(max_size=4)) + encoded[end:]

    if altered == encoded:
        assert HostRecord.decode(altered, NATIVE) == RECORD
        return
    # Only the recovery id has two forms (27 and 28, or 0 and 1); it says the same.
    with suppress(RemoteProtocolError):
        assert HostRecord.decode(altered, NATIVE) == RECORD
        assert json.loads(altered)["record"] == json.loads(encoded)["record"]


def test_a_second_spelling_of_a_token_cannot_smuggle_a_price_in() -> None:
    """The signature held: both spellings became one key when the digest was computed."""
    forged = written()
    forged["record"]["models"][0]["prices"] = {TOKEN.upper().replace("X", "x"): "1", TOKEN: "5"}

    assert "canonical" in refusal(canonical_json(forged))


@pytest.mark.parametrize(
    ("canonical", "other"),
    [
        ('"sequence":1', '"sequence": 1'),
        ('"sequence":1', '"sequence":"1"'),
        ('"sequence":1', '"sequence":1.0'),
        ('"sequence":1', '"sequence":1,"extra":0'),
        ("127.0.0.1", "127.0.0.\\u0031"),
        ("0xabab", "0xABAB"),
    ],
)
def test_another_spelling_of_a_record_is_refused(canonical: str, other: str) -> None:
    text = RECORD.encode_signed(SECRET, NATIVE).decode()
    assert canonical in text

    assert "canonical" in refusal(text.replace(canonical, other, 1).encode())


def test_another_wallets_record_is_refused() -> None:
    assert "not signed by the wallet" in refusal(RECORD.encode_signed(b"\2" * 32, NATIVE))


def test_long_records_are_refused_before_they_are_parsed() -> None:
    assert "longer than" in refusal(b"[" * (MAX_HOST_RECORD_BYTES + 1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("addresses", [""] * (MAX_HOST_RECORD_ADDRESSES + 1)),
        ("models", ["x"] * (MAX_HOST_RECORD_MODELS + 1)),
        ("addresses", "x"),
        ("peerId", "p" * 129),
        ("apiUrl", "u" * 513),
        ("host", "0x00"),
        ("sequence", -1),
        ("expiresAt", 1 << 53),
        ("models", [{"modelId": "0x" + "cd" * 32, "name": "n", "maxModelLen": 1}]),
    ],
)
def test_records_out_of_bounds_are_refused(name: str, value: object) -> None:
    forged = written()
    forged["record"][name] = value

    assert refusal(canonical_json(forged))


def test_the_payment_tokens_of_a_model_are_bounded() -> None:
    forged = written()
    prices = {f"0x{number:040x}": "1" for number in range(MAX_HOST_RECORD_MODELS + 1)}
    forged["record"]["models"][0]["prices"] = prices

    assert "too many payment tokens" in refusal(canonical_json(forged))


@given(st.binary(max_size=80))
def test_garbage_is_the_one_error(data: bytes) -> None:
    assert refusal(data)
