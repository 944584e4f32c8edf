"""Commitments: what they bind, and that nothing opens them in two ways."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.strategies import additions, byte_strings, chat_requests, texts, uint256s

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import canonical_json
from fabstir.primitives.ids import to_bytes
from fabstir.protocol.additions import Addition, additions_json
from fabstir.protocol.commitments import (
    NO_ADDITIONS,
    OutputCommitment,
    additions_digest,
    derive_seed,
    request_digest,
    seed_commitment,
)
from fabstir.protocol.content import Message
from fabstir.protocol.request import ChatRequest
from fabstir.protocol.sampling import SEED_LIMIT, SamplingParams

Output = tuple[list[tuple[list[int], str, str]], bytes]
Request = tuple[ChatRequest, bytes]
Additions = tuple[tuple[Addition, ...], bytes]

REQUEST = ChatRequest(messages=(Message("user", "x"),), sampling=SamplingParams(max_tokens=1))

keccak = NATIVE.keccak256
salts = byte_strings(32)
segments = st.tuples(st.lists(st.integers(0, (1 << 32) - 1), max_size=4), texts(6), texts(6))
outputs = st.tuples(st.lists(segments, min_size=1, max_size=3), salts)
requests = st.tuples(chat_requests, salts)
some_additions = st.tuples(st.lists(additions, min_size=1, max_size=2).map(tuple), salts)


def commitment_of(output: Output) -> bytes:
    """What the last receipt says, if there was one for each segment."""
    commitment = OutputCommitment(output[1], NATIVE)
    values = b""
    for ids, text, reasoning in output[0]:
        commitment.add(ids, text, reasoning=reasoning)
        values = to_bytes(commitment.value())
        commitment.receipted()
    return values


@given(outputs, outputs)
def test_an_output_has_one_commitment(one: Output, other: Output) -> None:
    assert (commitment_of(one) == commitment_of(other)) == (one == other)


@given(requests, requests)
def test_a_request_has_one_digest(one: Request, other: Request) -> None:
    assert (request_digest(*one, NATIVE) == request_digest(*other, NATIVE)) == (one == other)


@given(some_additions, some_additions)
def test_additions_have_one_digest(one: Additions, other: Additions) -> None:
    assert (additions_digest(*one, NATIVE) == additions_digest(*other, NATIVE)) == (one == other)
    assert additions_digest(*one, NATIVE) != NO_ADDITIONS
    assert additions_digest((), one[1], NATIVE) == NO_ADDITIONS


@given(outputs)
def test_the_preimage_of_an_output(output: Output) -> None:
    committed = keccak(b"fabstir/output/2" + output[1])
    for ids, text, reasoning in output[0]:
        content = {"text": text, "reasoning": reasoning} if reasoning else {"text": text}
        preimage = committed + len(ids).to_bytes(4, "big")
        preimage += b"".join(token.to_bytes(4, "big") for token in ids)
        committed = keccak(preimage + keccak(canonical_json(content)))

    assert commitment_of(output) == committed


@given(segments, st.integers(0, 4), salts)
def test_how_an_output_was_cut_into_pieces_does_not_matter(
    segment: tuple[list[int], str, str], cut: int, salt: bytes
) -> None:
    ids, text, reasoning = segment
    whole, pieces = OutputCommitment(salt, NATIVE), OutputCommitment(salt, NATIVE)

    whole.add(ids, text, reasoning=reasoning)
    pieces.add(ids[:cut], text[:cut], reasoning=reasoning[:cut])
    pieces.add(ids[cut:], text[cut:], reasoning=reasoning[cut:])

    assert pieces.value() == whole.value()


@given(some_additions)
def test_the_preimage_of_additions(added: Additions) -> None:
    listed = canonical_json(additions_json(added[0]))
    preimage = b"fabstir/additions/2" + added[1] + keccak(listed)

    assert to_bytes(additions_digest(*added, NATIVE)) == keccak(preimage)


@given(texts(6), salts)
def test_the_preimage_of_a_request(text: str, salt: bytes) -> None:
    assume(text.isprintable() and '"' not in text and "\\" not in text)
    request = ChatRequest(
        messages=(Message("user", text),), sampling=SamplingParams(max_tokens=5, seed=7)
    )
    canonical = (
        f'{{"messages":[{{"content":"{text}","role":"user"}}],"model":"","sampling":'
        '{"frequency_penalty":"0","max_tokens":5,"min_p":"0.05","presence_penalty":"0",'
        '"repeat_penalty":"1","seed":7,"stop":[],"temperature":"0.7","top_k":40,"top_p":"0.95"}}'
    )

    digest = request_digest(request, salt, NATIVE)

    assert to_bytes(digest) == keccak(b"fabstir/request/2" + salt + keccak(canonical.encode()))


@given(salts, salts, uint256s)
def test_a_seed_follows_from_both_nonces_and_the_job(
    client: bytes, host: bytes, job_id: int
) -> None:
    seed = derive_seed(client, host, job_id, NATIVE)
    preimage = b"fabstir/seed/2" + client + host + job_id.to_bytes(32, "big")

    assert seed == int.from_bytes(keccak(preimage)[:8], "big") % SEED_LIMIT
    assert to_bytes(seed_commitment(host, NATIVE)) == keccak(b"fabstir/seed-commitment/2" + host)


@given(st.binary(max_size=64).filter(lambda raw: len(raw) != 32))
def test_salts_and_nonces_have_32_bytes(raw: bytes) -> None:
    """Of another length they could swallow the field behind them."""
    good = bytes(32)
    for commit in (
        lambda: request_digest(REQUEST, raw, NATIVE),
        lambda: additions_digest((), raw, NATIVE),
        lambda: OutputCommitment(raw, NATIVE),
        lambda: seed_commitment(raw, NATIVE),
        lambda: derive_seed(raw, good, 1, NATIVE),
        lambda: derive_seed(good, raw, 1, NATIVE),
    ):
        with pytest.raises(ValueError, match="32 bytes"):
            commit()
