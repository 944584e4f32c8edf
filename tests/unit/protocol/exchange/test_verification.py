"""A renter agrees to exactly what was delivered, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.protocol.exchange.answering import (
    DOMAIN,
    FACTS,
    REQUEST,
    TERMS,
    HonestHost,
    asking_for,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import ReceiptMismatch, RemoteProtocolError
from fabstir.primitives.ids import Hash32, JobId
from fabstir.primitives.units import TokenCount, Wei, cost_of, tokens_for
from fabstir.protocol.additions import Addition
from fabstir.protocol.content import Message
from fabstir.protocol.exchange.verification import AnswerVerifier, check_terms, head_after
from fabstir.protocol.limits import (
    MAX_CHUNK_TEXT_BYTES,
    MAX_CHUNK_TOKENS,
    MAX_TOKEN_TEXT_BYTES,
    MAX_UNACKNOWLEDGED_TOKENS,
)
from fabstir.protocol.payloads import ChunkPlaintext, ExtensionTerms, ReceiptPlaintext
from fabstir.protocol.receipts import ChainHead, Receipt
from fabstir.protocol.request import RequestPlaintext

OTHER = Hash32("0x" + "cd" * 32)

pieces = st.lists(
    st.tuples(st.text(max_size=8), st.lists(st.integers(0, 50_000), min_size=1, max_size=6)),
    min_size=1,
    max_size=12,
)


def verifier(host: HonestHost) -> AnswerVerifier:
    return AnswerVerifier(FACTS, TERMS, ChainHead(), host.asked)


def delivered(host: HonestHost) -> AnswerVerifier:
    """A verifier that has seen one piece of two tokens."""
    made = verifier(host)
    made.add_chunk(0, host.deliver("Hello", [15, 16]))
    return made


@given(pieces, st.sets(st.integers(0, 11)))
def test_an_honest_host_is_agreed_with_wherever_it_puts_its_receipts(
    stream: list[tuple[str, list[int]]], receipts_after: set[int]
) -> None:
    host = HonestHost()
    renter = verifier(host)

    agreed: list[int] = []
    for index, (text, ids) in enumerate(stream):
        renter.add_chunk(index, host.deliver(text, ids))
        if index in receipts_after or index == len(stream) - 1:
            agreed.append(renter.check_receipt(host.issue()).acknowledgement.cumulative_tokens)
    renter.check_end(host.end())

    assert renter.text == host.text
    assert renter.head == host.head
    assert agreed == sorted(agreed)
    assert agreed[-1] == renter.num_receipted == sum(len(ids) for _, ids in stream)


@given(st.data())
def test_a_receipt_for_anything_else_than_what_was_delivered_is_refused(
    data: st.DataObject,
) -> None:
    host = HonestHost()
    renter = delivered(host)
    honest = host.receipt()
    other = data.draw(st.sampled_from(FORGERIES))(honest)

    with pytest.raises(ReceiptMismatch, match="not acknowledged and not paid"):
        renter.check_receipt(host.issue(other))

    assert renter.head == ChainHead().next_request()
    assert renter.num_receipted == 0


FORGERIES: list[Callable[[Receipt], Receipt]] = [
    lambda r: replace(r, job_id=JobId(r.job_id + 1)),
    lambda r: replace(r, sequence=r.sequence + 1),
    lambda r: replace(r, previous=OTHER),
    lambda r: replace(r, cumulative_tokens=TokenCount(r.cumulative_tokens + 1)),
    lambda r: replace(r, cumulative_cost=Wei(r.cumulative_cost + 1)),
    lambda r: replace(r, work=replace(r.work, model_digest=OTHER)),
    lambda r: replace(r, work=replace(r.work, request_digest=OTHER)),
    lambda r: replace(r, work=replace(r.work, output_commitment=OTHER)),
    lambda r: replace(r, work=replace(r.work, additions_digest=OTHER)),
    lambda r: replace(r, work=replace(r.work, num_completion_tokens=TokenCount(3))),
    lambda r: replace(r, work=replace(r.work, num_prompt_tokens=TokenCount(5000))),
]


def test_a_receipt_of_another_signer_is_refused() -> None:
    host = HonestHost()
    renter = delivered(host)

    with pytest.raises(ReceiptMismatch, match="did not sign it"):
        renter.check_receipt(host.issue(secret=bytes([8]) * 32))


def test_a_receipt_without_new_tokens_is_refused() -> None:
    host = HonestHost()
    renter = delivered(host)
    renter.check_receipt(host.issue())

    with pytest.raises(ReceiptMismatch, match="covers no new token"):
        renter.check_receipt(host.issue())


def test_a_prompt_count_that_changes_within_an_answer_is_refused() -> None:
    host = HonestHost()
    renter = delivered(host)
    renter.check_receipt(host.issue())
    renter.add_chunk(1, host.deliver("!", [17]))
    host.num_prompt_tokens += 1

    with pytest.raises(ReceiptMismatch, match="prompt token count changed"):
        renter.check_receipt(host.issue())


def with_seed(plaintext: ReceiptPlaintext, seed: int) -> ReceiptPlaintext:
    return replace(plaintext, seed=seed)


def test_a_seed_that_does_not_follow_from_both_nonces_is_refused() -> None:
    host = HonestHost()
    renter = delivered(host)

    with pytest.raises(ReceiptMismatch, match="does not follow from both nonces"):
        renter.check_receipt(with_seed(host.issue(), host.seed + 1))


def test_a_nonce_that_was_not_committed_to_is_refused() -> None:
    host = HonestHost()
    renter = delivered(host)

    with pytest.raises(ReceiptMismatch, match="not the one committed to"):
        renter.check_receipt(replace(host.issue(), host_nonce=bytes([4]) * 32))


def test_a_requested_seed_must_be_used() -> None:
    host = HonestHost(asked=RequestPlaintext(request=REQUEST.request.with_seed(42), salt=bytes(32)))
    renter = delivered(host)
    honest = host.issue()

    with pytest.raises(ReceiptMismatch, match="not the requested one"):
        renter.check_receipt(with_seed(honest, 43))
    assert renter.check_receipt(honest).plaintext.seed == 42


ADDED = (
    Addition(kind="retrieval", index=0, message=Message("system", "A passage.")),
    Addition(kind="instructions", index=1, message=Message("system", "Say it in verse.")),
)


def test_what_the_host_added_is_checked_and_shown() -> None:
    host = HonestHost(additions=ADDED)
    renter = delivered(host)

    renter.check_receipt(host.issue())
    renter.add_chunk(1, host.deliver(" there", [17]))
    renter.check_receipt(host.issue())

    assert renter.additions == ADDED
    assert host.receipt().work.additions_digest != HonestHost().receipt().work.additions_digest


@pytest.mark.parametrize(
    "told",
    [
        (),
        ADDED[:1],
        (*ADDED, ADDED[1]),
        (ADDED[0], replace(ADDED[1], message=Message("system", "Say it in prose."))),
        (ADDED[0], replace(ADDED[1], kind="summary")),
        (replace(ADDED[0], index=1), ADDED[1]),
    ],
    ids=range(6),
)
def test_additions_that_are_not_those_of_the_receipt_are_refused(
    told: tuple[Addition, ...],
) -> None:
    host = HonestHost(additions=ADDED)
    renter = delivered(host)

    with pytest.raises(ReceiptMismatch, match="Digest"):
        renter.check_receipt(replace(host.issue(), additions=told))
    assert renter.additions == ()


def test_additions_beyond_the_conversation_are_refused() -> None:
    host = HonestHost()
    renter = delivered(host)
    beyond = (replace(ADDED[0], index=2),)

    with pytest.raises(ReceiptMismatch, match="does not fit a conversation of 1"):
        renter.check_receipt(replace(host.issue(), additions=beyond))


def test_nothing_is_added_after_the_first_receipt() -> None:
    host = HonestHost(additions=ADDED)
    renter = delivered(host)
    renter.check_receipt(host.issue())
    renter.add_chunk(1, host.deliver(" there", [17]))

    with pytest.raises(ReceiptMismatch, match="after the first receipt"):
        renter.check_receipt(replace(host.issue(), additions=ADDED))


def test_no_receipt_may_exceed_the_deposit() -> None:
    facts = replace(FACTS, deposit=cost_of(TokenCount(1), FACTS.price_per_token))
    host = HonestHost()
    renter = AnswerVerifier(facts, TERMS, ChainHead(), host.asked)
    renter.add_chunk(0, host.deliver("Hello", [15, 16]))

    assert tokens_for(facts.deposit, facts.price_per_token) == 1
    with pytest.raises(ReceiptMismatch, match="more tokens than the deposit pays for"):
        renter.check_receipt(host.issue())


def test_more_tokens_than_asked_for_are_refused() -> None:
    request = asking_for(1)
    host = HonestHost(asked=request)

    with pytest.raises(RemoteProtocolError, match="more than the 1 tokens asked for"):
        verifier(host).add_chunk(0, host.deliver("ab", [1, 2]))


@pytest.mark.parametrize(
    "chunk",
    [
        ChunkPlaintext(text="", token_ids=tuple(range(MAX_CHUNK_TOKENS + 1))),
        ChunkPlaintext(text="a" * (MAX_CHUNK_TEXT_BYTES + 1), token_ids=(1,)),
    ],
    ids=["tokens", "bytes"],
)
def test_a_piece_beyond_the_limits_is_refused(chunk: ChunkPlaintext) -> None:
    with pytest.raises(RemoteProtocolError, match="a piece holds more than"):
        verifier(HonestHost()).add_chunk(0, chunk)


@given(
    st.lists(
        st.tuples(st.integers(0, 4 * MAX_TOKEN_TEXT_BYTES), st.integers(0, 8)),
        max_size=40,
    )
)
def test_text_never_outgrows_its_tokens(stream: list[tuple[int, int]]) -> None:
    """Whatever pieces a host makes: text may come late, never early and never without tokens."""
    host = HonestHost()
    renter = verifier(host)

    for index, (num_bytes, num_ids) in enumerate(stream):
        piece = ChunkPlaintext(text="x" * num_bytes, token_ids=(1,) * num_ids)
        try:
            renter.add_chunk(index, piece)
        except RemoteProtocolError:
            break

    assert len(renter.text) <= MAX_TOKEN_TEXT_BYTES * renter.num_tokens
    assert renter.num_tokens <= MAX_UNACKNOWLEDGED_TOKENS


def test_text_without_tokens_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="1 bytes of text for 0 tokens"):
        verifier(HonestHost()).add_chunk(0, ChunkPlaintext(text="x", token_ids=()))


def test_four_tokens_never_bring_more_text_than_four_tokens_can_have() -> None:
    request = asking_for(4)
    host = HonestHost(asked=request)
    renter = verifier(host)
    renter.add_chunk(0, host.deliver("a" * 4 * MAX_TOKEN_TEXT_BYTES, [1, 2, 3, 4]))

    with pytest.raises(RemoteProtocolError, match="2049 bytes of text for 4 tokens"):
        renter.add_chunk(1, host.deliver("a", []))


def test_text_that_was_held_back_may_come_after_its_tokens() -> None:
    host = HonestHost()
    renter = verifier(host)
    renter.add_chunk(0, host.deliver("", [1, 2, 3]))
    renter.add_chunk(1, host.deliver("\N{WAVING HAND SIGN}" * 200, []))

    assert renter.check_receipt(host.issue()).acknowledgement.cumulative_tokens == 3


def test_more_tokens_than_the_window_without_a_receipt_are_refused() -> None:
    host = HonestHost()
    renter = verifier(host)
    for index in range(2):
        renter.add_chunk(index, host.deliver("a", range(64)))

    with pytest.raises(RemoteProtocolError, match="128 tokens without a receipt"):
        renter.add_chunk(2, host.deliver("a", [1]))


def test_more_tokens_than_the_context_holds_are_refused() -> None:
    terms = replace(TERMS, max_model_len=8)
    renter = AnswerVerifier(FACTS, terms, ChainHead(), REQUEST)

    with pytest.raises(RemoteProtocolError, match="context holds"):
        renter.add_chunk(0, HonestHost().deliver("a", range(8)))


def test_an_answer_that_ends_without_a_receipt_for_all_of_it_is_refused() -> None:
    host = HonestHost()
    renter = delivered(host)
    renter.check_receipt(host.issue())
    renter.add_chunk(1, host.deliver("!", [17]))

    with pytest.raises(RemoteProtocolError, match="3 tokens with receipts for 2"):
        renter.check_end(host.end())


@pytest.mark.parametrize("num_prompt_tokens", [0, 3000], ids=["none", "more than its bytes"])
def test_a_prompt_count_that_no_tokenizer_makes_is_refused(num_prompt_tokens: int) -> None:
    host = HonestHost(num_prompt_tokens=num_prompt_tokens)
    renter = delivered(host)

    with pytest.raises(ReceiptMismatch, match="no tokenizer makes"):
        renter.check_receipt(host.issue())


def test_a_lost_piece_is_noticed() -> None:
    with pytest.raises(RemoteProtocolError, match="piece 1 came where 0 was due"):
        verifier(HonestHost()).add_chunk(1, ChunkPlaintext(text="b", token_ids=(2,)))


@pytest.mark.parametrize("changes", [{"num_completion_tokens": 3}, {"num_prompt_tokens": 21}])
def test_final_counts_must_be_those_that_were_seen(changes: dict[str, int]) -> None:
    host = HonestHost()
    renter = delivered(host)
    renter.check_receipt(host.issue())

    with pytest.raises(RemoteProtocolError, match="the host counts"):
        renter.check_end(host.end(**changes))


def test_a_second_answer_goes_on_after_the_first() -> None:
    host = HonestHost()
    renter = delivered(host)
    first = renter.check_receipt(host.issue())
    second_host = HonestHost(head=host.head.next_request())
    second = AnswerVerifier(FACTS, TERMS, renter.head, REQUEST)
    second.add_chunk(0, second_host.deliver("Again", [1, 2, 3]))

    verified = second.check_receipt(second_host.issue())

    assert verified.receipt.previous == first.receipt.hash(DOMAIN, NATIVE)
    assert verified.acknowledgement.cumulative_tokens == 5


def test_the_head_can_be_rebuilt_from_the_last_acknowledgement_alone() -> None:
    host = HonestHost()
    renter = delivered(host)
    signed = renter.check_receipt(host.issue()).acknowledgement.sign(
        bytes([9]) * 32, DOMAIN, NATIVE
    )

    assert head_after(signed) == renter.head.next_request()
    assert head_after(None) == ChainHead()


def test_agreed_terms_pass() -> None:
    check_terms(TERMS, FACTS, ChainHead())


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        (replace(TERMS, model_digest=OTHER), "the model's sha256"),
        (replace(TERMS, price_per_token=FACTS.price_per_token + 1), "the price"),
        (replace(TERMS, sequence=1), "the last receipt's number"),
        (replace(TERMS, receipt_hash=OTHER), "the last receipt's hash"),
        (replace(TERMS, cumulative_tokens=TokenCount(1)), "the number of tokens so far"),
        (replace(TERMS, receipt_interval=0), "the receipts' interval"),
        (replace(TERMS, receipt_interval=65), "the receipts' interval"),
        (replace(TERMS, max_unacknowledged=63), "the window of unacknowledged tokens"),
        (replace(TERMS, max_unacknowledged=(1 << 32) - 1), "the window of unacknowledged tokens"),
    ],
    ids=["model", "price", "sequence", "hash", "tokens", "never", "rare", "narrow", "wide"],
)
def test_other_terms_than_agreed_are_refused(terms: ExtensionTerms, named: str) -> None:
    with pytest.raises(ReceiptMismatch, match=named):
        check_terms(terms, FACTS, ChainHead())
