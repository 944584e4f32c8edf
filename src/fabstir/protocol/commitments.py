"""What a receipt commits to: salted hashes of the prompt, the output and the sampling.

Salted, because receipts travel in bundles that anyone may read and short texts can be guessed.
The renter chooses the salt, so both sides can open a commitment and nobody else can.
"""

from __future__ import annotations

from collections.abc import Sequence

from fabstir.primitives.encoding import canonical_json
from fabstir.primitives.ids import Hash32, hash32
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import struct_hash
from fabstir.protocol.sampling import SEED_LIMIT, SamplingParams

PROMPT_DOMAIN = b"fabstir/prompt/1"
OUTPUT_DOMAIN = b"fabstir/output/1"
SEED_DOMAIN = b"fabstir/seed/1"
SEED_COMMITMENT_DOMAIN = b"fabstir/seed-commitment/1"
SAMPLING_TYPE = (
    "Sampling(uint64 maxTokens,uint64 temperatureMillionths,uint64 topPMillionths,"
    "uint64 minPMillionths,uint64 repeatPenaltyMillionths,uint64 topK,uint64 seed,bytes32 stop)"
)


def _exactly_32(raw: bytes) -> bytes:
    # A salt or nonce of another length could move the border to the field after it, and so open
    # one commitment in two ways.
    if len(raw) != 32:
        raise ValueError(f"salts and nonces have 32 bytes, not {len(raw)}")
    return raw


def prompt_commitment(messages: Sequence[ChatMessage], salt: bytes, crypto: Crypto) -> Hash32:
    """keccak(domain | salt | keccak(canonical JSON of [{"content", "role"}, ...])).

    The messages are the whole conversation that the model saw, so a truncated context shows.
    """
    text = canonical_json([{"role": m.role, "content": m.content} for m in messages])
    preimage = PROMPT_DOMAIN + _exactly_32(salt) + crypto.keccak256(text)
    return hash32(crypto.keccak256(preimage))


def output_commitment(token_ids: Sequence[int], text: str, salt: bytes, crypto: Crypto) -> Hash32:
    """keccak(domain | salt | u32 count | u32 ids | keccak(UTF-8 text)), integers big-endian."""
    ids = b"".join(token.to_bytes(4, "big") for token in token_ids)
    count = len(token_ids).to_bytes(4, "big")
    tail = crypto.keccak256(text.encode())
    return hash32(crypto.keccak256(OUTPUT_DOMAIN + _exactly_32(salt) + count + ids + tail))


def sampling_digest(sampling: SamplingParams, crypto: Crypto) -> Hash32:
    """The EIP-712 struct hash of the parameters, the seed among them."""
    stops = crypto.keccak256(b"".join(crypto.keccak256(stop.encode()) for stop in sampling.stop))
    values = (
        sampling.max_tokens,
        sampling.temperature_millionths,
        sampling.top_p_millionths,
        sampling.min_p_millionths,
        sampling.repeat_penalty_millionths,
        sampling.top_k,
        sampling.seed,
        "0x" + stops.hex(),
    )
    return hash32(struct_hash(SAMPLING_TYPE, values, crypto))


def seed_commitment(host_nonce: bytes, crypto: Crypto) -> Hash32:
    """What the host publishes before it sees the renter's nonce."""
    return hash32(crypto.keccak256(SEED_COMMITMENT_DOMAIN + _exactly_32(host_nonce)))


def derive_seed(client_nonce: bytes, host_nonce: bytes, job_id: int, crypto: Crypto) -> int:
    """A seed that neither side could choose; below llama.cpp's "choose one" value."""
    nonces = _exactly_32(client_nonce) + _exactly_32(host_nonce)
    preimage = SEED_DOMAIN + nonces + job_id.to_bytes(32, "big")
    return int.from_bytes(crypto.keccak256(preimage)[:8], "big") % SEED_LIMIT
