"""What stands inside the envelopes: ours, and the forms of existing clients."""

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.strategies import (
    chat_requests,
    chunk_plaintexts,
    closed_plaintexts,
    end_plaintexts,
    extension_terms,
    init_plaintexts,
    json_safe,
    receipt_plaintexts,
    seeds,
    signed_acknowledgements,
    texts,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import JobId
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.limits import (
    MAX_CHUNK_TEXT_BYTES,
    MAX_CHUNK_TOKENS,
    MAX_COMPLETION_TOKENS,
    MAX_MESSAGES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
)
from fabstir.protocol.payloads import (
    DEFAULT_MAX_TOKENS,
    EXTENSION_NAME,
    ChatRequest,
    ChunkPlaintext,
    ClosedPlaintext,
    EndPlaintext,
    ExtensionTerms,
    InitPlaintext,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.protocol.sampling import SEED_LIMIT, SamplingParams

KEY = "ab" * 32
DECODERS: list[Callable[[bytes], object]] = [
    InitPlaintext.decode,
    ExtensionTerms.decode,
    ChatRequest.decode,
    ChunkPlaintext.decode,
    ReceiptPlaintext.decode,
    EndPlaintext.decode,
    ClosedPlaintext.decode,
    SignedAcknowledgement.decode,
]


def encoded(value: Json) -> bytes:
    return json.dumps(value).encode()


def request(**fields: Json) -> ChatRequest:
    return ChatRequest.decode(encoded({"prompt": "x", **fields}))


@given(init_plaintexts)
def test_init_round_trip(value: InitPlaintext) -> None:
    assert InitPlaintext.decode(value.encode()) == value


@given(extension_terms)
def test_terms_round_trip(value: ExtensionTerms) -> None:
    assert ExtensionTerms.decode(value.encode()) == value


@given(chat_requests())
def test_request_round_trip(value: ChatRequest) -> None:
    assert ChatRequest.decode(value.encode()) == value


@given(chunk_plaintexts)
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
    st.one_of(
        init_plaintexts, extension_terms, chat_requests(), chunk_plaintexts, receipt_plaintexts
    ),
    st.data(),
)
def test_altered_payloads_are_a_value_or_the_one_error(
    value: InitPlaintext | ExtensionTerms | ChatRequest | ChunkPlaintext | ReceiptPlaintext,
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
    altered = json.loads(terms.encode()) | {"name": "fabstir/2"}

    with pytest.raises(RemoteProtocolError, match=EXTENSION_NAME):
        ExtensionTerms.decode(encoded(altered))


# -- requests -------------------------------------------------------------------------------------


@given(texts(40, 1))
@example("123")
@example("null")
@example("{")
@example('{"prompt": NaN}')
@example("[1, 2]")
@example("[" * 100)
def test_bare_text_is_the_prompt(text: str) -> None:
    if text.startswith('"'):
        return
    assert ChatRequest.decode(text.encode()).prompt == text


def test_a_json_string_is_the_prompt() -> None:
    assert ChatRequest.decode(b'"say \\"hi\\""').prompt == 'say "hi"'


def test_the_defaults_are_those_of_existing_clients() -> None:
    defaults = SamplingParams(max_tokens=DEFAULT_MAX_TOKENS, seed=0)

    assert request() == ChatRequest(prompt="x", sampling=defaults)
    assert defaults.temperature_millionths == 700_000


def test_the_request_of_existing_clients() -> None:
    asked = request(
        model="m",
        max_tokens=100,
        temperature=0.7,
        stream=True,
        thinking="low",
        images=[],
        action=None,
    )

    assert asked.sampling == SamplingParams(max_tokens=100, seed=0)
    assert not asked.has_seed


@given(seeds)
def test_camel_case_of_sampling(seed: int) -> None:
    asked = request(
        maxTokens=5, topP=0.5, minP=0.25, topK=3, repeatPenalty=1.5, seed=seed, stop="a"
    )

    assert asked.sampling == SamplingParams(
        max_tokens=5,
        top_p_millionths=500_000,
        min_p_millionths=250_000,
        repeat_penalty_millionths=1_500_000,
        top_k=3,
        seed=seed,
        stop=("a",),
    )
    assert asked.has_seed


def test_messages_win_over_the_prompt_and_top_k_may_be_zero() -> None:
    asked = request(messages=[{"role": "user", "content": "hi"}], top_k=0)

    assert asked.messages == (ChatMessage("user", "hi"),)
    assert asked.prompt == ""
    assert asked.sampling.top_k == 0


@given(chat_requests(), seeds)
def test_the_seed_that_is_used_changes_nothing_else(asked: ChatRequest, seed: int) -> None:
    used = asked.with_seed(seed)

    assert used.seed == seed
    assert {**vars_of(used), "seed": 0} == {**vars_of(asked.sampling), "seed": 0}


def vars_of(sampling: SamplingParams) -> dict[str, object]:
    return {name: getattr(sampling, name) for name in SamplingParams.__slots__}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"max_tokens": MAX_COMPLETION_TOKENS + 1},
        {"max_tokens": -1},
        {"temperature": 10.1},
        {"temperature": 10**400},
        {"top_p": 1.1},
        {"seed": SEED_LIMIT},
        {"top_k": -1},
        {"stop": [""] * (MAX_STOP_STRINGS + 1)},
        {"stop": ["s" * (MAX_STOP_CHARS + 1)]},
        {"stop": 5},
        {"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "r" * 33, "content": "x"}]},
        {"messages": ["hi"]},
        {"salt": "00" * 31},
        {"clientNonce": "00" * 33},
        {"prompt": ""},
        {"prompt": None},
        {"prompt": "\ud800"},
    ],
)
def test_requests_out_of_bounds_are_refused(fields: dict[str, Json]) -> None:
    with pytest.raises(RemoteProtocolError):
        request(**fields)


@pytest.mark.parametrize("data", [b"", b"\xff", b'"\\ud800"', b"{}"])
def test_what_holds_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ChatRequest.decode(data)


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunk",
    [
        {"text": "é" * (MAX_CHUNK_TEXT_BYTES // 2 + 1), "ids": []},
        {"text": "a" * (MAX_CHUNK_TEXT_BYTES + 1), "ids": []},
        {"text": "a", "ids": [1] * (MAX_CHUNK_TOKENS + 1)},
        {"text": "a", "ids": [1 << 32]},
        {"text": "a", "ids": [-1]},
        {"text": "a"},
        {"ids": [1]},
    ],
    ids=range(7),
)
def test_chunks_out_of_bounds_are_refused(chunk: Json) -> None:
    with pytest.raises(RemoteProtocolError):
        ChunkPlaintext.decode(encoded(chunk))


@given(st.text(json_safe, max_size=8))
def test_the_largest_chunk_is_read(text: str) -> None:
    text = text + "a" * (MAX_CHUNK_TEXT_BYTES - len(text.encode()))
    chunk = ChunkPlaintext(text=text, token_ids=(7,) * MAX_CHUNK_TOKENS)

    assert ChunkPlaintext.decode(chunk.encode()) == chunk
