"""What a receipt commits to: salted hashes of the request, of what the host added, and the output.

Salted, because receipts travel in bundles that anyone may read and short texts can be guessed.
The renter chooses the salt, so both sides can open a commitment and nobody else can.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.ids import Hash32, hash32
from fabstir.protocol.additions import Addition, additions_json
from fabstir.protocol.answers import ToolCallPiece
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.request import ChatRequest
from fabstir.protocol.sampling import SEED_LIMIT

REQUEST_DOMAIN = b"fabstir/request/2"
ADDITIONS_DOMAIN = b"fabstir/additions/2"
OUTPUT_DOMAIN = b"fabstir/output/2"
SEED_DOMAIN = b"fabstir/seed/2"
SEED_COMMITMENT_DOMAIN = b"fabstir/seed-commitment/2"

NO_ADDITIONS: Final = Hash32("0x" + "00" * 32)
"""The additions' digest where the host added nothing."""


def _exactly_32(raw: bytes) -> bytes:
    # A salt or nonce of another length could move the border to the field after it, and so open
    # one commitment in two ways.
    if len(raw) != 32:
        raise ValueError(f"salts and nonces have 32 bytes, not {len(raw)}")
    return raw


def request_digest(executed: ChatRequest, salt: bytes, crypto: Crypto) -> Hash32:
    """keccak(domain | salt | keccak(canonical JSON of the request)).

    Args:
        executed: with the seed that is used, and all messages that the model saw: a truncated
            conversation shows, and so does one that the host added to.
    """
    content = crypto.keccak256(canonical_json(executed.to_json()))
    return hash32(crypto.keccak256(REQUEST_DOMAIN + _exactly_32(salt) + content))


def additions_digest(additions: Sequence[Addition], salt: bytes, crypto: Crypto) -> Hash32:
    """keccak(domain | salt | keccak(canonical JSON of the list)); NO_ADDITIONS for none."""
    preimage = ADDITIONS_DOMAIN + _exactly_32(salt)
    if not additions:
        return NO_ADDITIONS
    content = crypto.keccak256(canonical_json(additions_json(additions)))
    return hash32(crypto.keccak256(preimage + content))


class OutputCommitment:
    """The commitment to an answer, which grows with it: a receipt hashes only what is new in it.

    keccak(domain | salt) at first; with each receipt keccak(commitment before | u32 count |
    u32 ids | keccak(canonical JSON of the content)), of what came since the receipt before.
    Integers are big-endian.
    """

    def __init__(self, salt: bytes, crypto: Crypto) -> None:
        self._crypto = crypto
        self._committed = crypto.keccak256(OUTPUT_DOMAIN + _exactly_32(salt))
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[Json] = []

    def add(
        self,
        token_ids: Sequence[int],
        text: str,
        *,
        reasoning: str = "",
        tool_calls: Sequence[ToolCallPiece] = (),
    ) -> None:
        """Take in the next piece."""
        self._token_ids += token_ids
        self._texts.append(text)
        self._thoughts.append(reasoning)
        self._calls += [call.to_json() for call in tool_calls]

    def value(self) -> Hash32:
        """What a receipt for all pieces so far says. Changes nothing."""
        return hash32(self._after())

    def receipted(self) -> None:
        """A receipt with this value was made: what comes is the next one's."""
        self._committed = self._after()
        for each in (self._token_ids, self._texts, self._thoughts, self._calls):
            each.clear()

    def _after(self) -> bytes:
        content: dict[str, Json] = {"text": "".join(self._texts)}
        if reasoning := "".join(self._thoughts):
            content["reasoning"] = reasoning
        if self._calls:
            content["tool_calls"] = self._calls
        count = len(self._token_ids)
        ids = struct.pack(f">{count + 1}I", count, *self._token_ids)
        tail = self._crypto.keccak256(canonical_json(content))
        return self._crypto.keccak256(self._committed + ids + tail)


def seed_commitment(host_nonce: bytes, crypto: Crypto) -> Hash32:
    """What the host publishes before it sees the renter's nonce."""
    return hash32(crypto.keccak256(SEED_COMMITMENT_DOMAIN + _exactly_32(host_nonce)))


def derive_seed(client_nonce: bytes, host_nonce: bytes, job_id: int, crypto: Crypto) -> int:
    """A seed that neither side could choose; below llama.cpp's "choose one" value."""
    nonces = _exactly_32(client_nonce) + _exactly_32(host_nonce)
    preimage = SEED_DOMAIN + nonces + job_id.to_bytes(32, "big")
    return int.from_bytes(crypto.keccak256(preimage)[:8], "big") % SEED_LIMIT
