"""How frames are sealed: existing clients' one key, and our renters' channel."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.protocol.exchange.meeting import JOB, randomness

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.units import TokenCount
from fabstir.protocol.client_messages import EncryptedAck, EncryptedClose, EncryptedMessage
from fabstir.protocol.envelope import NONCE_BYTES, SealedPayload, seal_payload
from fabstir.protocol.exchange import dialects
from fabstir.protocol.exchange.answers import Piece
from fabstir.protocol.exchange.dialects import EraCDialect
from fabstir.protocol.host_messages import EncryptedChunk
from fabstir.protocol.payloads import ChunkPlaintext, ClosedPlaintext

KEY = bytes([4]) * 32
SESSION = str(JOB)


def dialect() -> EraCDialect:
    return EraCDialect(SESSION, KEY, NATIVE, randomness())


def sealed(prompt: str = "Hello", *, key: bytes = KEY, number: int = 0) -> SealedPayload:
    nonce = number.to_bytes(NONCE_BYTES, "big")
    return seal_payload(key, nonce, b"", prompt.encode(), NATIVE)


def message(payload: SealedPayload) -> EncryptedMessage:
    return EncryptedMessage(session_id=SESSION, id="q", payload=payload)


def refusal_of(seen: EraCDialect, payload: SealedPayload) -> str:
    with pytest.raises(RemoteProtocolError) as refused:
        seen.open_request(message(payload))
    return refused.value.code


def test_a_message_counts_once() -> None:
    host = dialect()
    assert host.open_request(message(sealed())).prompt == "Hello"

    assert refusal_of(host, sealed()) == "REPLAYED_MESSAGE"
    assert host.open_request(message(sealed(number=1))).prompt == "Hello"


def test_what_does_not_open_uses_up_no_nonce() -> None:
    host = dialect()

    assert refusal_of(host, sealed(key=bytes(32))) == "DECRYPTION_FAILED"
    assert host.open_request(message(sealed())).prompt == "Hello"


def test_our_own_frame_that_comes_back_is_a_replay() -> None:
    host = dialect()
    piece = Piece(index=0, chunk=ChunkPlaintext(text="hi", token_ids=(1,)))
    [ours] = host.piece("q", piece)
    assert isinstance(ours, EncryptedChunk)

    assert refusal_of(host, ours.payload) == "REPLAYED_MESSAGE"


def test_one_key_takes_so_many_messages_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialects, "_MAX_SEEN_NONCES", 2)
    host = dialect()
    for number in range(2):
        host.open_request(message(sealed(number=number)))

    assert refusal_of(host, sealed(number=2)) == "SESSION_KEY_NOT_FOUND"


def test_a_message_is_meant_for_whose_key_opens_it() -> None:
    host = dialect()

    assert host.is_meant(message(sealed()))
    assert not host.is_meant(message(sealed(key=bytes(32))))
    assert not host.is_meant(message(replace(sealed(), ciphertext=b"")))


def test_there_is_nothing_to_agree_to_and_nothing_to_close() -> None:
    host, payload = dialect(), sealed()

    with pytest.raises(RemoteProtocolError, match="no acknowledgements"):
        host.open_acknowledgement(EncryptedAck(session_id=SESSION, id="a", payload=payload))
    with pytest.raises(RemoteProtocolError, match="close the socket"):
        host.open_close(EncryptedClose(session_id=SESSION, id="c", payload=payload))
    closed = ClosedPlaintext(tokens_proven=TokenCount(1), is_final=True, settles_in=0)
    assert host.closed("c", closed) == []
