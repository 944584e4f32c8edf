"""What is read of a host is bounded by what it delivers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.protocol.exchange.answering import HonestHost

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.envelope import SealedPayload
from fabstir.protocol.exchange.budget import (
    BYTES_PER_TOKEN,
    FRAMES_PER_TOKEN,
    FREE_BYTES,
    FREE_FRAMES,
    ReadBudget,
)
from fabstir.protocol.frames import Frame, encode_frame
from fabstir.protocol.host_messages import EncryptedChunk, EncryptedReceipt
from fabstir.protocol.limits import (
    MAX_CHUNK_TEXT_BYTES,
    MAX_CHUNK_TOKENS,
    MAX_HOST_FRAME_BYTES,
    MAX_ID_CHARS,
    MAX_TOKEN_TEXT_BYTES,
)
from fabstir.protocol.payloads import ChunkPlaintext, ReceiptPlaintext
from fabstir.protocol.receipts import SignedReceipt

LONG_ID = "9" * MAX_ID_CHARS


def sealed(plaintext: bytes) -> SealedPayload:
    return SealedPayload(bytes(len(plaintext) + 16), bytes(24), bytes(2 * MAX_ID_CHARS + 64))


def size(frame: Frame) -> int:
    return len(encode_frame(frame))


def chunk(num_bytes: int, num_ids: int) -> EncryptedChunk:
    """The worst that is legal: control characters, which JSON writes in six bytes each."""
    plaintext = ChunkPlaintext(text="\x01" * num_bytes, token_ids=((1 << 32) - 1,) * num_ids)
    return EncryptedChunk(
        session_id=LONG_ID,
        id=LONG_ID,
        tokens=num_ids,
        index=(1 << 53) - 1,
        payload=sealed(plaintext.encode()),
    )


def receipt() -> EncryptedReceipt:
    host = HonestHost()
    host.deliver("a", [1])
    issued = host.issue()
    plaintext = ReceiptPlaintext(
        signed=SignedReceipt(issued.signed.receipt, issued.signed.signature),
        seed=issued.seed,
        host_nonce=issued.host_nonce,
    )
    return EncryptedReceipt(session_id=LONG_ID, id=LONG_ID, payload=sealed(plaintext.encode()))


def test_every_legal_frame_fits() -> None:
    assert size(chunk(MAX_CHUNK_TEXT_BYTES, MAX_CHUNK_TOKENS)) <= MAX_HOST_FRAME_BYTES


def test_a_token_earns_the_largest_chunk_and_receipt_that_it_can_need() -> None:
    needed = size(chunk(MAX_TOKEN_TEXT_BYTES, 1)) + size(receipt())

    assert needed <= BYTES_PER_TOKEN
    assert FRAMES_PER_TOKEN == 2


@given(st.lists(st.tuples(st.integers(1, 50_000), st.integers(0, 4)), max_size=200))
def test_what_is_read_is_bounded_by_what_was_delivered(frames: list[tuple[int, int]]) -> None:
    budget = ReadBudget()
    num_bytes = num_frames = num_tokens = 0

    for frame_bytes, tokens in frames:
        try:
            budget.spend(frame_bytes)
        except RemoteProtocolError:
            break
        num_bytes, num_frames = num_bytes + frame_bytes, num_frames + 1
        budget.earn(tokens)
        num_tokens += tokens

    assert num_bytes <= FREE_BYTES + BYTES_PER_TOKEN * num_tokens
    assert num_frames <= FREE_FRAMES + FRAMES_PER_TOKEN * num_tokens


def test_empty_frames_end_it_too() -> None:
    budget = ReadBudget()
    for _ in range(FREE_FRAMES):
        budget.spend(0)

    with pytest.raises(RemoteProtocolError, match="more frames or bytes than the tokens"):
        budget.spend(0)
