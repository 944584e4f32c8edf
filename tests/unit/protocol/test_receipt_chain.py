"""Receipts: host and renter keep the same chain, and no difference goes unseen."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.strategies import (
    authorizations,
    domains,
    hashes,
    job_ids,
    prices,
    receipts,
    secrets,
    signed_authorizations,
    signed_receipts,
    works,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import canonical_json
from fabstir.primitives.errors import ReceiptMismatch, RemoteProtocolError
from fabstir.primitives.ids import Address, ChainId, Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei, cost_of
from fabstir.protocol.authorization import SessionKeyAuthorization, SignedAuthorization
from fabstir.protocol.eip712 import Domain, is_signed_by
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.receipts import (
    GENESIS,
    Acknowledgement,
    ChainHead,
    Receipt,
    SignedAcknowledgement,
    SignedReceipt,
    Work,
    sign_receipt,
)

HOST_SECRET, RENTER_SECRET = b"\1" * 32, b"\2" * 32
HOST = NATIVE.address_of(NATIVE.public_key(HOST_SECRET))
RENTER = NATIVE.address_of(NATIVE.public_key(RENTER_SECRET))
DOMAIN = Domain(ChainId(31337), Address("0x" + "33" * 20))
JOB = JobId(7)

NAMES = {"work": ""} | {
    f.name: "".join([head, *(part.capitalize() for part in rest)])
    for kind in (Receipt, Work)
    for f in fields(kind)
    for head, *rest in [f.name.split("_")]
}
"""Field names as a mismatch calls them."""


def reread(signed: SignedReceipt) -> SignedReceipt:
    """As it comes out of a frame."""
    return SignedReceipt.from_fields(Fields.parse(canonical_json(signed.to_json()), "receipt"))


# -- forms ----------------------------------------------------------------------------------------


@given(signed_receipts)
def test_receipts_round_trip(signed: SignedReceipt) -> None:
    assert reread(signed) == signed


@given(signed_authorizations)
def test_authorizations_round_trip(signed: SignedAuthorization) -> None:
    written = Fields.parse(canonical_json(signed.to_json()), "authorization")

    assert SignedAuthorization.from_fields(written) == signed


@given(receipts)
def test_numbers_that_javascript_would_round_are_text(receipt: Receipt) -> None:
    written = receipt.to_json()

    assert written["jobId"] == str(receipt.job_id)
    assert written["cumulativeCost"] == str(receipt.cumulative_cost)


@pytest.mark.parametrize(
    "altered",
    [
        {"sequence": 1 << 64},
        {"cumulativeTokens": -1},
        {"cumulativeCost": str(1 << 256)},
        {"jobId": None},
        {"previous": "0x00"},
        {"signature": "0x" + "00" * 64},
    ],
)
def test_receipts_out_of_bounds_are_refused(altered: dict[str, object]) -> None:
    work = Work(
        model_digest=GENESIS,
        request_digest=GENESIS,
        additions_digest=GENESIS,
        output_commitment=GENESIS,
        num_prompt_tokens=TokenCount(1),
        num_completion_tokens=TokenCount(1),
    )
    signed = sign_receipt(
        ChainHead().make(JOB, work, PricePerToken(1)), HOST_SECRET, DOMAIN, NATIVE
    )

    with pytest.raises(RemoteProtocolError):
        SignedReceipt.from_fields(Fields({**signed.to_json(), **altered}, "receipt"))


# -- signatures -----------------------------------------------------------------------------------


@given(receipts, domains, domains)
def test_a_receipt_counts_for_one_contract_on_one_chain(
    receipt: Receipt, domain: Domain, other: Domain
) -> None:
    signed = sign_receipt(receipt, HOST_SECRET, domain, NATIVE)

    is_same = domain == other
    digest = receipt.hash(other, NATIVE)
    assert is_signed_by(HOST, signed.signature, digest, NATIVE) == is_same


@given(st.data())
def test_an_altered_acknowledgement_is_not_signed(data: st.DataObject) -> None:
    acknowledgement = Acknowledgement(
        job_id=JOB, sequence=3, receipt_hash=GENESIS, cumulative_tokens=TokenCount(99)
    )
    signed = acknowledgement.sign(RENTER_SECRET, DOMAIN, NATIVE)
    altered: dict[str, Any] = {
        "job_id": JobId(8),
        "sequence": 4,
        "receipt_hash": data.draw(hashes.filter(GENESIS.__ne__)),
        "cumulative_tokens": TokenCount(100),
    }

    assert signed.is_signed_by(RENTER, DOMAIN, NATIVE)
    assert not signed.is_signed_by(HOST, DOMAIN, NATIVE)
    for name, value in altered.items():
        other = replace(acknowledgement, **{name: value})
        assert not SignedAcknowledgement(other, signed.signature).is_signed_by(
            RENTER, DOMAIN, NATIVE
        )


@given(secrets, authorizations, domains)
def test_an_authorization_names_its_signer_and_only_for_what_it_says(
    secret: bytes, authorization: SessionKeyAuthorization, domain: Domain
) -> None:
    signer = NATIVE.address_of(NATIVE.public_key(secret))
    signed = authorization.sign(secret, domain, NATIVE)
    later = replace(authorization, expires_at=authorization.expires_at + 1)

    assert signed.signer(domain, NATIVE) == signer
    assert SignedAuthorization(later, signed.signature).signer(domain, NATIVE) != signer
    assert SignedAuthorization(authorization, bytes(65)).signer(domain, NATIVE) is None


# -- the comparison -------------------------------------------------------------------------------


@given(receipts)
def test_equal_receipts_agree(receipt: Receipt) -> None:
    ChainHead().check(receipt, receipt)


@given(receipts, receipts)
def test_every_field_that_differs_is_named(receipt: Receipt, other: Receipt) -> None:
    for name in ("job_id", "sequence", "previous", "cumulative_tokens", "cumulative_cost"):
        differing = replace(receipt, **{name: getattr(other, name)})
        assert_named(differing, receipt, name)
    for field in fields(Work):
        work = replace(receipt.work, **{field.name: getattr(other.work, field.name)})
        assert_named(replace(receipt, work=work), receipt, field.name)


def assert_named(receipt: Receipt, expected: Receipt, name: str) -> None:
    if receipt == expected:
        return
    with pytest.raises(ReceiptMismatch) as caught:
        ChainHead().check(receipt, expected)
    assert f"{NAMES[name]} is " in str(caught.value)
    assert str(caught.value).count(", expected ") == 1


# -- the chain ------------------------------------------------------------------------------------


class HostAndRenter(RuleBasedStateMachine):
    """A session in which both sides build the chain from what they saw."""

    @initialize(price=prices, job_id=job_ids)
    def open(self, price: PricePerToken, job_id: JobId) -> None:
        self.price, self.job_id = price, job_id
        self.host = self.renter = ChainHead()
        self.delivered = 0
        self.work: Work | None = None
        self.unacknowledged: list[SignedReceipt] = []
        self.acknowledged = ChainHead()

    @rule(work=works)
    def ask(self, work: Work) -> None:
        """A new request: its counts begin anew, the chain goes on."""
        if self.unacknowledged:
            self.acknowledge()
        self.work = replace(work, num_completion_tokens=TokenCount(0))
        self.host, self.renter = self.host.next_request(), self.renter.next_request()

    @precondition(lambda self: self.work is not None)
    @precondition(lambda self: len(self.unacknowledged) < 2)
    @rule(num_tokens=st.integers(1, RECEIPT_INTERVAL_TOKENS), output=hashes)
    def deliver(self, num_tokens: int, output: Hash32) -> None:
        """Some tokens and their receipt."""
        assert self.work is not None
        count = TokenCount(self.work.num_completion_tokens + num_tokens)
        self.work = replace(self.work, num_completion_tokens=count, output_commitment=output)
        self.delivered += num_tokens
        receipt = self.host.make(self.job_id, self.work, self.price)
        self.host = self.host.advance(receipt, receipt.hash(DOMAIN, NATIVE))
        self.unacknowledged.append(sign_receipt(receipt, HOST_SECRET, DOMAIN, NATIVE))
        self.verify(reread(self.unacknowledged[-1]))

    def verify(self, signed: SignedReceipt) -> None:
        """The renter's half: from its own work, not from the receipt."""
        assert self.work is not None
        expected = self.renter.make(self.job_id, self.work, self.price)
        self.renter.check(signed.receipt, expected)
        receipt_hash = expected.hash(DOMAIN, NATIVE)
        assert is_signed_by(HOST, signed.signature, receipt_hash, NATIVE)
        self.renter = self.renter.advance(expected, receipt_hash)

    @precondition(lambda self: bool(self.unacknowledged))
    @rule()
    def acknowledge(self) -> None:
        """The last receipt stands for all before it."""
        receipt = self.unacknowledged[-1].receipt
        acknowledgement = Acknowledgement(
            job_id=self.job_id,
            sequence=receipt.sequence,
            receipt_hash=receipt.hash(DOMAIN, NATIVE),
            cumulative_tokens=receipt.cumulative_tokens,
        )
        signed = acknowledgement.sign(RENTER_SECRET, DOMAIN, NATIVE)
        assert SignedAcknowledgement.decode(signed.encode()) == signed
        assert signed.is_signed_by(RENTER, DOMAIN, NATIVE)
        self.unacknowledged.clear()
        self.acknowledged = self.host

    @rule()
    def reconnect(self) -> None:
        """What was not acknowledged is written off: both go on from what was."""
        self.host = self.renter = self.acknowledged.next_request()
        self.delivered = self.acknowledged.cumulative_tokens
        self.unacknowledged.clear()
        self.work = None

    @precondition(lambda self: bool(self.unacknowledged))
    @rule(data=st.data())
    def cheat(self, data: st.DataObject) -> None:
        """Another receipt than the one that is due does not pass."""
        due = self.unacknowledged[-1].receipt
        name = data.draw(st.sampled_from(["cumulative_tokens", "cumulative_cost", "sequence"]))
        with pytest.raises(ReceiptMismatch):
            self.renter.check(replace(due, **{name: getattr(due, name) + 1}), due)
        with pytest.raises(ReceiptMismatch):
            self.renter.check(replace(due, previous=due.hash(DOMAIN, NATIVE)), due)

    @invariant()
    def both_agree(self) -> None:
        assert self.host == self.renter
        assert self.host.cumulative_tokens == self.delivered
        assert self.host.tokens_before_request <= self.delivered

    @invariant()
    def exposure_is_bounded(self) -> None:
        exposed = self.host.cumulative_tokens - self.acknowledged.cumulative_tokens
        assert exposed <= MAX_UNACKNOWLEDGED_TOKENS

    @invariant()
    def the_bill_is_that_of_the_tokens(self) -> None:
        if self.unacknowledged:
            receipt = self.unacknowledged[-1].receipt
            assert receipt.cumulative_cost == cost_of(TokenCount(self.delivered), self.price)


HostAndRenter.TestCase.settings = settings(max_examples=30, stateful_step_count=20)
TestHostAndRenter = HostAndRenter.TestCase


def test_the_first_receipt_follows_genesis() -> None:
    work = Work(
        model_digest=GENESIS,
        request_digest=GENESIS,
        additions_digest=GENESIS,
        output_commitment=GENESIS,
        num_prompt_tokens=TokenCount(5),
        num_completion_tokens=TokenCount(64),
    )

    receipt = ChainHead().make(JOB, work, PricePerToken(1500))

    assert (receipt.sequence, receipt.previous) == (1, GENESIS)
    assert receipt.cumulative_cost == Wei(96)
    assert json.loads(canonical_json(receipt.to_json()))["cumulativeCost"] == "96"
