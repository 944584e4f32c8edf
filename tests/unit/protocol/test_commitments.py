"""Commitments: what they bind, and that nothing opens them in two ways."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.strategies import byte_strings, conversations, samplings, texts, uint256s

from fabstir.crypto import NATIVE
from fabstir.primitives.ids import to_bytes
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.commitments import (
    derive_seed,
    output_commitment,
    prompt_commitment,
    sampling_digest,
    seed_commitment,
)
from fabstir.protocol.sampling import SEED_LIMIT, SamplingParams

Output = tuple[list[int], str, bytes]
Prompt = tuple[tuple[ChatMessage, ...], bytes]

keccak = NATIVE.keccak256
salts = byte_strings(32)
outputs = st.tuples(st.lists(st.integers(0, (1 << 32) - 1), max_size=4), texts(6), salts)
prompts = st.tuples(conversations, salts)


@given(outputs, outputs)
def test_an_output_has_one_commitment(one: Output, other: Output) -> None:
    assert (output_commitment(*one, NATIVE) == output_commitment(*other, NATIVE)) == (one == other)


@given(prompts, prompts)
def test_a_prompt_has_one_commitment(one: Prompt, other: Prompt) -> None:
    assert (prompt_commitment(*one, NATIVE) == prompt_commitment(*other, NATIVE)) == (one == other)


@given(samplings, samplings)
def test_sampling_has_one_digest(one: SamplingParams, other: SamplingParams) -> None:
    assert (sampling_digest(one, NATIVE) == sampling_digest(other, NATIVE)) == (one == other)


@given(outputs)
def test_the_preimage_of_an_output(output: Output) -> None:
    ids, text, salt = output
    preimage = b"fabstir/output/1" + salt + len(ids).to_bytes(4, "big")
    preimage += b"".join(token.to_bytes(4, "big") for token in ids) + keccak(text.encode())

    assert to_bytes(output_commitment(ids, text, salt, NATIVE)) == keccak(preimage)


@given(texts(6), salts)
def test_the_preimage_of_a_prompt(text: str, salt: bytes) -> None:
    assume(text.isprintable() and '"' not in text and "\\" not in text)
    canonical = f'[{{"content":"{text}","role":"user"}}]'.encode()

    commitment = prompt_commitment([ChatMessage("user", text)], salt, NATIVE)

    assert to_bytes(commitment) == keccak(b"fabstir/prompt/1" + salt + keccak(canonical))


@given(salts, salts, uint256s)
def test_a_seed_follows_from_both_nonces_and_the_job(
    client: bytes, host: bytes, job_id: int
) -> None:
    seed = derive_seed(client, host, job_id, NATIVE)
    preimage = b"fabstir/seed/1" + client + host + job_id.to_bytes(32, "big")

    assert seed == int.from_bytes(keccak(preimage)[:8], "big") % SEED_LIMIT
    assert to_bytes(seed_commitment(host, NATIVE)) == keccak(b"fabstir/seed-commitment/1" + host)


@given(st.binary(max_size=64).filter(lambda raw: len(raw) != 32))
def test_salts_and_nonces_have_32_bytes(raw: bytes) -> None:
    """Of another length they could swallow the field behind them."""
    good = bytes(32)
    for commit in (
        lambda: prompt_commitment([], raw, NATIVE),
        lambda: output_commitment([], "", raw, NATIVE),
        lambda: seed_commitment(raw, NATIVE),
        lambda: derive_seed(raw, good, 1, NATIVE),
        lambda: derive_seed(good, raw, 1, NATIVE),
    ):
        with pytest.raises(ValueError, match="32 bytes"):
            commit()
