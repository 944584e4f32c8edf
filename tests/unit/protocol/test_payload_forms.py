"""What stands inside the envelopes: ours, and the forms of existing clients."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import (
    chunk_plaintexts,
    closed_plaintexts,
    end_plaintexts,
    extension_terms,
    init_plaintexts,
    json_safe,
    receipt_plaintexts,
    signed_acknowledgements,
    texts,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import JobId
from fabstir.protocol.additions import parse_additions
from fabstir.protocol.answers import MIN_LOGPROB, AnswerContent, TokenLogprob, ToolCallPiece
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_ADDITIONS,
    MAX_ADDITIONS_BYTES,
    MAX_CHUNK_TEXT_BYTES,
    MAX_CHUNK_TOKENS,
    MAX_TOOLS,
)
from fabstir.protocol.payloads import (
    EXTENSION_NAME,
    ChunkPlaintext,
    ClosedPlaintext,
    EndPlaintext,
    ExtensionTerms,
    InitPlaintext,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import SignedAcknowledgement

KEY = "ab" * 32
LOGPROB: dict[str, Json] = {"id": 1, "bytes": "", "logprob": "0"}
DECODERS: list[Callable[[bytes], object]] = [
    InitPlaintext.decode,
    ExtensionTerms.decode,
    ChunkPlaintext.decode,
    ReceiptPlaintext.decode,
    EndPlaintext.decode,
    ClosedPlaintext.decode,
    SignedAcknowledgement.decode,
]


def encoded(value: Json) -> bytes:
    return json.dumps(value).encode()


@given(init_plaintexts)
def test_init_round_trip(value: InitPlaintext) -> None:
    assert InitPlaintext.decode(value.encode()) == value


@given(extension_terms)
def test_terms_round_trip(value: ExtensionTerms) -> None:
    assert ExtensionTerms.decode(value.encode()) == value


@given(chunk_plaintexts())
def test_chunk_round_trip(value: ChunkPlaintext) -> None:
    assert ChunkPlaintext.decode(value.encode()) == value


@given(receipt_plaintexts)
def test_receipt_round_trip(value: ReceiptPlaintext) -> None:
    assert ReceiptPlaintext.decode(value.encode()) == value


@given(end_plaintexts)
def test_end_round_trip(value: EndPlaintext) -> None:
    assert EndPlaintext.decode(value.encode()) == value


@given(closed_plaintexts)
def test_close_round_trip(value: ClosedPlaintext) -> None:
    assert ClosedPlaintext.decode(value.encode()) == value


@pytest.mark.parametrize("said", [{}, {"isFinal": "true"}, {"isFinal": 1}, {"isFinal": None}])
def test_a_close_is_final_only_if_it_says_so(said: dict[str, Json]) -> None:
    assert not ClosedPlaintext.decode(encoded({"tokensProven": 64, **said})).is_final


@given(signed_acknowledgements)
def test_acknowledgement_round_trip(value: SignedAcknowledgement) -> None:
    assert SignedAcknowledgement.decode(value.encode()) == value


@given(
    st.one_of(init_plaintexts, extension_terms, chunk_plaintexts(), receipt_plaintexts),
    st.data(),
)
def test_altered_payloads_are_a_value_or_the_one_error(
    value: InitPlaintext | ExtensionTerms | ChunkPlaintext | ReceiptPlaintext,
    data: st.DataObject,
) -> None:
    raw = value.encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 5)))

    altered = raw[:start] + data.draw(st.binary(max_size=5)) + raw[end:]

    for decode in DECODERS:
        with suppress(RemoteProtocolError):
            decode(altered)


# -- init -----------------------------------------------------------------------------------------


def test_the_init_of_existing_clients() -> None:
    plaintext = {
        "jobId": "7",
        "modelName": "repo:file.gguf",
        "sessionKey": KEY,
        "pricePerToken": 0,
        "recoveryPublicKey": "0x" + NATIVE.public_key(b"\1" * 32).hex(),
        "vectorDatabase": {"manifestPath": "home/x", "userAddress": "0x1"},
    }

    init = InitPlaintext.decode(encoded(plaintext))

    assert init.job_id == 7
    assert init.extension is None
    assert init.recovery_public_key == NATIVE.public_key(b"\1" * 32)


def test_both_spellings_of_the_init() -> None:
    snake: Json = {"job_id": 7, "model_name": "m", "session_key": "0x" + KEY, "price_per_token": 5}

    init = InitPlaintext.decode(encoded(snake))

    assert init == InitPlaintext(
        job_id=JobId(7),
        model_name="m",
        session_key=b"\xab" * 32,
        price_per_token=init.price_per_token,
    )
    assert init.price_per_token == 5


def test_an_extension_that_we_do_not_know_is_none() -> None:
    plaintext = {"jobId": 7, "sessionKey": KEY, "extension": {"name": "fabstir/9"}}

    assert InitPlaintext.decode(encoded(plaintext)).extension is None


@pytest.mark.parametrize("key", ["02" + "00" * 32, "02" + "ff" * 32, "04" + "11" * 32, "02" * 32])
def test_a_recovery_key_that_is_no_point_is_refused_at_once(key: str) -> None:
    """Found at the claim it would cost the host its pay: the delta could not be encrypted."""
    plaintext = {"jobId": 7, "sessionKey": KEY, "recoveryPublicKey": key}

    with pytest.raises(RemoteProtocolError, match="recoveryPublicKey"):
        InitPlaintext.decode(encoded(plaintext))


@given(extension_terms)
def test_terms_of_another_extension_are_refused(terms: ExtensionTerms) -> None:
    altered = json.loads(terms.encode()) | {"name": "fabstir/1"}

    with pytest.raises(RemoteProtocolError, match=EXTENSION_NAME):
        ExtensionTerms.decode(encoded(altered))


# -- answers --------------------------------------------------------------------------------------


BAD_CHUNKS: Final[list[dict[str, Json]]] = [
    {"text": "é" * (MAX_CHUNK_TEXT_BYTES // 2 + 1), "ids": []},
    {"text": "a" * (MAX_CHUNK_TEXT_BYTES + 1), "ids": []},
    {"text": "a", "ids": [1] * (MAX_CHUNK_TOKENS + 1)},
    {"text": "a", "ids": [1 << 32]},
    {"text": "a", "ids": [-1]},
    {"text": "a"},
    {"ids": [1]},
    {"text": "a" * (MAX_CHUNK_TEXT_BYTES - 1), "ids": [], "reasoning": "bb"},
    {"text": "", "ids": [], "toolCalls": [{"index": MAX_TOOLS, "arguments": ""}]},
    {"text": "", "ids": [], "toolCalls": [{"index": 0}]},
    {"text": "", "ids": [], "toolCalls": [{"index": 0, "id": "c", "arguments": ""}]},
    {"text": "", "ids": [], "logprobs": [{"id": 1, "bytes": "", "logprob": "-1"}]},
    {"text": "", "ids": [1], "logprobs": [{"id": 1, "bytes": "", "logprob": -0.5}]},
    {"text": "", "ids": [1], "logprobs": [{"id": 1, "bytes": "", "logprob": "0.1"}]},
    {"text": "", "ids": [1], "logprobs": [{"id": 1, "bytes": "00" * 513, "logprob": "0"}]},
    {"text": "", "ids": [1], "logprobs": [{**LOGPROB, "top": [{**LOGPROB, "top": []}]}]},
]


@pytest.mark.parametrize("chunk", BAD_CHUNKS, ids=range(16))
def test_chunks_out_of_bounds_are_refused(chunk: Json) -> None:
    with pytest.raises(RemoteProtocolError):
        ChunkPlaintext.decode(encoded(chunk))


@given(st.text(json_safe, max_size=8))
def test_the_largest_chunk_is_read(text: str) -> None:
    text = text + "a" * (MAX_CHUNK_TEXT_BYTES - len(text.encode()))
    chunk = ChunkPlaintext(text=text, token_ids=(7,) * MAX_CHUNK_TOKENS)

    assert ChunkPlaintext.decode(chunk.encode()) == chunk


@given(st.lists(st.tuples(texts(4), texts(4), st.lists(texts(6), max_size=3)), max_size=3))
def test_pieces_of_calls_are_joined(calls: list[tuple[str, str, list[str]]]) -> None:
    content = AnswerContent()
    for index, (name, text, fragments) in enumerate(calls):
        content.add(text, tool_calls=[ToolCallPiece(index=index, id=f"c{index}", name=name)])
        for fragment in fragments:
            content.add("", tool_calls=[ToolCallPiece(index=index, arguments=fragment)])

    assert content.text == "".join(text for _, text, _ in calls)
    assert [(call.id, call.name, call.arguments) for call in content.tool_calls] == [
        (f"c{index}", name, "".join(fragments)) for index, (name, _, fragments) in enumerate(calls)
    ]


@pytest.mark.parametrize(
    "piece",
    [
        ToolCallPiece(index=0, arguments="x"),
        ToolCallPiece(index=1, id="c", name="n"),
        ToolCallPiece(index=3, arguments="x"),
    ],
)
def test_a_piece_of_a_call_that_did_not_begin_is_refused(piece: ToolCallPiece) -> None:
    with pytest.raises(RemoteProtocolError, match="out of order"):
        AnswerContent().add("", tool_calls=[piece])


def test_a_call_does_not_begin_twice() -> None:
    first = ToolCallPiece(index=0, id="c", name="n")
    content = AnswerContent()
    content.add("", tool_calls=[first])

    with pytest.raises(RemoteProtocolError, match="out of order"):
        content.add("", tool_calls=[first])


@pytest.mark.parametrize(
    ("told", "kept"), [(-3.4e38, MIN_LOGPROB), (1e-9, 0.0), (-0.1234567, -0.123457)]
)
def test_probabilities_have_a_spelling(told: float, kept: float) -> None:
    assert TokenLogprob(token_id=1, token_bytes=b"", logprob=told).logprob == kept


def addition(content: str = "x", **changes: Json) -> dict[str, Json]:
    message: Json = {"role": "system", "content": content}
    return {"kind": "retrieval", "index": 0, "numReplaced": 0, "message": message, **changes}


BAD_ADDITIONS: Final[list[Json]] = [
    [addition()] * (MAX_ADDITIONS + 1),
    [addition("x" * (MAX_ADDITIONS_BYTES // 2)), addition("\n" * (MAX_ADDITIONS_BYTES // 4))],
    [addition(kind="advertisement")],
    [addition(index=-1)],
    [addition(numReplaced=None)],
    [addition(message={"role": "narrator", "content": "x"})],
    {},
]


@pytest.mark.parametrize("listed", BAD_ADDITIONS, ids=range(7))
def test_additions_out_of_bounds_are_refused(listed: Json) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_additions(Fields({"additions": listed}, "receipt"), "additions")
