"""Every decoder that meets a stranger's bytes, as a function of bytes.

A target returns for any input, or raises what nobody promised: that is a finding. What a decoder
accepts must also survive being written and read again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, Self

import coincurve
from tests.fuzz.engine_targets import ENGINE_TARGETS
from tests.fuzz.model_targets import MODEL_TARGETS
from tests.fuzz.s5_door_targets import S5_DOOR_TARGETS
from tests.fuzz.s5_path_targets import S5_PATH_TARGETS
from tests.fuzz.s5_targets import S5_TARGETS
from tests.fuzz.s5_tree_targets import S5_TREE_TARGETS

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.encoding import (
    decode_base58,
    decode_multibase,
    encode_base58,
    encode_multibase,
    parse_json,
)
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, ChainId, JobId, parse_address, parse_hash32
from fabstir.primitives.units import format_amount, parse_amount
from fabstir.protocol.capabilities import needs_of
from fabstir.protocol.checkpoint import (
    CheckpointDelta,
    decode_index,
    decrypt_delta,
    encode_index,
    open_delta,
)
from fabstir.protocol.client_messages import (
    EncryptedSessionInit,
    Unsupported,
    decode_client_message,
)
from fabstir.protocol.commitments import request_digest
from fabstir.protocol.crypto import is_curve_point
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.envelope import open_init
from fabstir.protocol.era_c import EraCRequest
from fabstir.protocol.fields import Fields
from fabstir.protocol.frames import encode_frame
from fabstir.protocol.host_messages import Unknown, decode_host_message
from fabstir.protocol.host_record import HostRecord
from fabstir.protocol.limits import MAX_JSON_DEPTH
from fabstir.protocol.payloads import (
    ChunkPlaintext,
    ClosedPlaintext,
    EndPlaintext,
    ExtensionTerms,
    InitPlaintext,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.protocol.refusals import refusal
from fabstir.protocol.request import RequestPlaintext
from fabstir.protocol.sampling import SamplingParams

Target = Callable[[bytes], None]

HOST_SECRET: Final = b"\1" * 32
HOST: Final = NATIVE.address_of(NATIVE.public_key(HOST_SECRET))
RECOVERY_SECRET: Final = b"\2" * 32
JOB_ID: Final = JobId(7)
DOMAIN: Final = Domain(ChainId(31337), Address("0x" + "33" * 20))

_SIGNATURE_CHARS = len("00" * 65 + '"}')
"""How a record ends."""

# What py_ecc, below eth-account, does to every node: json.loads then recurses until the stack ends.
sys.setrecursionlimit(100_000)


class _Payload(Protocol):
    """A plaintext that is written the way it is read."""

    def encode(self) -> bytes: ...

    @classmethod
    def decode(cls, data: bytes) -> Self: ...


def _payload(kind: type[_Payload]) -> Target:
    def target(data: bytes) -> None:
        with suppress(RemoteProtocolError):
            value = kind.decode(data)
            assert kind.decode(value.encode()) == value

    return target


def client_message(data: bytes) -> None:
    """A frame at the host's door, and the handshake in it."""
    with suppress(RemoteProtocolError):
        message = decode_client_message(data)
        if isinstance(message, Unsupported):
            for frame in refusal(message):
                decode_host_message(encode_frame(frame))
            return
        assert decode_client_message(encode_frame(message)) == message
        if isinstance(message, EncryptedSessionInit):
            opened = open_init(message.payload, HOST_SECRET, NATIVE)
            InitPlaintext.decode(opened.plaintext)


def host_message(data: bytes) -> None:
    """A frame at the renter's."""
    with suppress(RemoteProtocolError):
        message = decode_host_message(data)
        assert isinstance(message, Unknown) or decode_host_message(encode_frame(message)) == message


def chat_request(data: bytes) -> None:
    """A renter's request, what it needs of a model, and the digest of what is executed."""
    _payload(RequestPlaintext)(data)
    with suppress(RemoteProtocolError):
        asked = RequestPlaintext.decode(data)
        needs_of(asked.request)
        request_digest(asked.request.with_seed(1), asked.salt, NATIVE)


def era_c_request(data: bytes) -> None:
    """A request of an existing client, and the conversation that is made of it."""
    with suppress(RemoteProtocolError):
        asked = EraCRequest.decode(data)
        assert asked.messages or asked.prompt
        sampling = SamplingParams.from_fields(Fields(asked.sampling.to_json(), "sampling"))
        assert sampling == asked.sampling


def receipt(data: bytes) -> None:
    """A receipt, and the digest that is computed before anything in it is believed."""
    _payload(ReceiptPlaintext)(data)
    with suppress(RemoteProtocolError):
        ReceiptPlaintext.decode(data).signed.receipt.hash(DOMAIN, NATIVE)


def acknowledgement(data: bytes) -> None:
    """An acknowledgement, and its signature's check."""
    _payload(SignedAcknowledgement)(data)
    with suppress(RemoteProtocolError):
        SignedAcknowledgement.decode(data).is_signed_by(DOMAIN.contract, DOMAIN, NATIVE)


def init_plaintext(data: bytes) -> None:
    """What an init holds, and the authorization in it."""
    _payload(InitPlaintext)(data)
    with suppress(RemoteProtocolError):
        extension = InitPlaintext.decode(data).extension
        if extension and extension.authorization:
            extension.authorization.signer(DOMAIN, NATIVE)


def host_record(data: bytes) -> None:
    """A value of the DHT: only one byte form of it is read."""
    with suppress(RemoteProtocolError):
        record = HostRecord.decode(data, NATIVE)
        rewritten = record.encode_signed(HOST_SECRET, NATIVE)
        assert rewritten[:-_SIGNATURE_CHARS] == data[:-_SIGNATURE_CHARS]


def checkpoint_delta(data: bytes) -> None:
    """A published delta, at the renter who recovers it."""
    with suppress(RemoteProtocolError):
        decrypt_delta(data, RECOVERY_SECRET, NATIVE)
    with suppress(RemoteProtocolError):
        delta = open_delta(data, HOST, RECOVERY_SECRET, NATIVE)
        assert CheckpointDelta.decode(delta.encode(HOST_SECRET, NATIVE), HOST, NATIVE) == delta


def checkpoint_index(data: bytes) -> None:
    """The index of a session, at the renter who recovers it."""
    with suppress(RemoteProtocolError):
        entries = decode_index(data, JOB_ID, HOST, NATIVE)
        again = encode_index(JOB_ID, HOST, entries, HOST_SECRET, NATIVE)
        assert decode_index(again, JOB_ID, HOST, NATIVE) == entries


def blob_id(data: bytes) -> None:
    """An identifier in binary and as text; one of earlier releases is written in today's form."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        blob = BlobId.from_bytes(data)
        assert BlobId.from_bytes(blob.to_bytes()) == blob
        assert data[:1] == b"\x26" or data[2:3] == b"\x1f" or blob.to_bytes() == data
    with suppress(ValueError):
        blob = BlobId.decode(text)
        assert BlobId.decode(blob.encode(text[0])) == blob
    with suppress(ValueError):
        multihash = Multihash.decode(text)
        assert Multihash.from_bytes(multihash.to_bytes()) == multihash


def encodings(data: bytes) -> None:
    """Base 58 and multibase."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        assert encode_base58(decode_base58(text)) == text
    with suppress(ValueError):
        assert encode_multibase(decode_multibase(text), text[0]) == text


def amounts(data: bytes) -> None:
    """What people type: amounts, addresses, hashes."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        amount = parse_amount(text, 18)
        assert parse_amount(format_amount(amount, 18), 18) == amount
    with suppress(ValueError):
        assert len(parse_address(text)) == 42
    with suppress(ValueError):
        assert len(parse_hash32(text)) == 66


def json(data: bytes) -> None:
    """Any JSON of a stranger; the process survives it."""
    with suppress(ValueError):
        parse_json(data, max_depth=MAX_JSON_DEPTH)


def keys_and_signatures(data: bytes) -> None:
    """Points as libsecp256k1 sees them, and signatures that recover or are bad."""
    is_point = True
    try:
        coincurve.PublicKey(data[:33])
    except ValueError:
        is_point = False
    assert is_curve_point(data[:33]) == (is_point and len(data) >= 33)
    with suppress(ValueError):
        NATIVE.recover(data[:65], data[65:97])
    with suppress(ValueError):
        NATIVE.open(data[:32], data[32:56], b"", data[56:])


TARGETS: Final[dict[str, Target]] = {
    "client_message": client_message,
    "host_message": host_message,
    "init_plaintext": init_plaintext,
    "extension_terms": _payload(ExtensionTerms),
    "chat_request": chat_request,
    "era_c_request": era_c_request,
    "chunk": _payload(ChunkPlaintext),
    "receipt": receipt,
    "end": _payload(EndPlaintext),
    "closed": _payload(ClosedPlaintext),
    "acknowledgement": acknowledgement,
    "host_record": host_record,
    "checkpoint_delta": checkpoint_delta,
    "checkpoint_index": checkpoint_index,
    "blob_id": blob_id,
    "encodings": encodings,
    "amounts": amounts,
    "json": json,
    "keys_and_signatures": keys_and_signatures,
    **ENGINE_TARGETS,
    **MODEL_TARGETS,
    **S5_TARGETS,
    **S5_DOOR_TARGETS,
    **S5_PATH_TARGETS,
    **S5_TREE_TARGETS,
}
