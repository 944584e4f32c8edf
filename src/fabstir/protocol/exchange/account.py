"""A session's account at its host: what was delivered, receipted, agreed to and proven.

All the arithmetic of exposure, and no I/O: `serving` and the rail journal what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fabstir.primitives.errors import ReceiptMismatch, SessionRefused
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei, tokens_for
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.exchange.phases import HostPhase, HostStep, host_after
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS
from fabstir.protocol.receipts import ChainHead, Receipt, SignedAcknowledgement, Work

MAX_LOST_TOKENS: Final = 4 * MAX_UNACKNOWLEDGED_TOKENS
"""What a session may lose by reconnecting before it is served no more. Without it, a renter that
reconnects instead of acknowledging would get a window for nothing each time."""

LOST_SHARE: Final = 8
"""Bad networks: a long session may lose one token for this many that were agreed to."""


@dataclass(slots=True, kw_only=True)
class HostAccount:
    """One session as its host counts it.

    Attributes:
        signer: whose acknowledgements count.
        phase: moves by `HOST_TABLE`.
        holder: the exchange of the connection that may use the session.
        issued: head of the receipts that were sent.
        agreed: tokens that may be claimed.
        delivered: tokens that were sent, receipted or not.
        proven: tokens that are on chain.
        lost: tokens sent on connections that ended before they were agreed to.
        pending: receipts that were sent and not acknowledged, by hash.
    """

    job_id: JobId
    deposit: Wei
    price_per_token: PricePerToken
    signer: Address
    phase: HostPhase = HostPhase.AWAY
    holder: object | None = None
    issued: ChainHead = field(default_factory=ChainHead)
    agreed: TokenCount = TokenCount(0)
    delivered: TokenCount = TokenCount(0)
    proven: TokenCount = TokenCount(0)
    lost: int = 0
    pending: dict[Hash32, Receipt] = field(default_factory=dict[Hash32, Receipt])

    @property
    def session_id(self) -> str:
        """Era-C's name for the session: the job id as text."""
        return str(self.job_id)

    @property
    def affordable(self) -> int:
        """Tokens that the deposit still covers, beyond what was delivered.

        Not beyond what was agreed to: a renter that agreed late to more than its deposit would
        make the whole claim revert.
        """
        return tokens_for(self.deposit, self.price_per_token) - self.delivered

    @property
    def unacknowledged(self) -> int:
        """Tokens delivered and not agreed to: this host's exposure to the renter."""
        return self.delivered - self.agreed

    @property
    def window_end(self) -> TokenCount:
        """How many tokens may be delivered in all before the renter agrees to more."""
        return TokenCount(self.agreed + MAX_UNACKNOWLEDGED_TOKENS)

    @property
    def is_forgiven(self) -> bool:
        """Whether what was lost is still little, or little beside what was agreed to."""
        return self.lost <= max(MAX_LOST_TOKENS, self.agreed // LOST_SHARE)

    @property
    def is_held(self) -> bool:
        """Whether a connection has the session."""
        return self.holder is not None

    def advance(self, step: HostStep) -> None:
        """Move to the phase that `step` leads to. Raises SessionRefused: it is not legal."""
        self.phase = host_after(self.phase, step, self.session_id)

    # -- connections --------------------------------------------------------------------------

    def resume(self, head: ChainHead, holder: object) -> None:
        """A connection goes on after `head`; what was sent after it is not billed.

        Raises:
            SessionRefused: the session is being settled, or is.
        """
        self.advance(HostStep.ADMITTED)
        self.holder = holder
        self.lost += max(0, self.delivered - head.cumulative_tokens)
        self.issued = head
        self.agreed = self.delivered = head.cumulative_tokens
        self.pending.clear()

    def release(self) -> None:
        """Its connection is gone."""
        self.holder = None
        self.advance(HostStep.RELEASED)

    # -- one request --------------------------------------------------------------------------

    def require_forgiven(self) -> None:
        """Raises SessionRefused: too much was delivered that nobody agreed to."""
        if not self.is_forgiven:
            raise SessionRefused(
                "UNACKNOWLEDGED",
                f"{self.lost} tokens of session {self.session_id} were delivered and never "
                "acknowledged: close it and open another",
            )

    def begin_request(self) -> None:
        """What an answer that failed had sent and not receipted is nobody's debt."""
        self.delivered = self.issued.cumulative_tokens
        self.issued = self.issued.next_request()

    def is_agreed(self, num_tokens: int) -> bool:
        """Whether the renter's agreement allows `num_tokens` more."""
        return self.unacknowledged + num_tokens <= MAX_UNACKNOWLEDGED_TOKENS

    def is_proven(self, num_tokens: int, max_unproven: int) -> bool:
        """Whether the last proof allows `num_tokens` more; always those of one piece."""
        unproven = self.delivered + num_tokens - self.proven
        return unproven <= max(max_unproven, num_tokens)

    def deliver(self, num_tokens: int) -> None:
        """So many tokens were sent."""
        self.delivered = TokenCount(self.delivered + num_tokens)

    def next_receipt(self, work: Work) -> Receipt:
        """The next link of the chain, for `work` of the current request."""
        return self.issued.make(self.job_id, work, self.price_per_token)

    def issue(self, receipt: Receipt, receipt_hash: Hash32, *, is_agreed: bool) -> None:
        """A receipt is journalled: the chain goes on after it.

        Args:
            is_agreed: its client knows no acknowledgements: what it got, it agreed to.
        """
        self.issued = self.issued.advance(receipt, receipt_hash)
        if is_agreed:
            self.agreed = receipt.cumulative_tokens
        else:
            self.pending[receipt_hash] = receipt

    # -- acknowledgements ---------------------------------------------------------------------

    def match(self, signed: SignedAcknowledgement, domain: Domain, crypto: Crypto) -> Receipt:
        """The receipt that is due and that an acknowledgement says yes to.

        Raises:
            ReceiptMismatch: there is none, or the session's key did not sign.
        """
        acknowledgement = signed.acknowledgement
        receipt = self.pending.get(acknowledgement.receipt_hash)
        if (
            receipt is None
            or acknowledgement.job_id != self.job_id
            or acknowledgement.sequence != receipt.sequence
            or acknowledgement.cumulative_tokens != receipt.cumulative_tokens
            or not signed.is_signed_by(self.signer, domain, crypto)
        ):
            raise ReceiptMismatch(
                f"the acknowledgement {acknowledgement.sequence} of session {self.session_id} "
                "fits no receipt that is due: sign the receipt's own hash, sequence and "
                "cumulative tokens with the session key"
            )
        return receipt

    def agree(self, receipt: Receipt) -> None:
        """The renter's yes is journalled: it covers everything up to `receipt`."""
        self.pending = {
            receipt_hash: later
            for receipt_hash, later in self.pending.items()
            if later.sequence > receipt.sequence
        }
        self.agreed = TokenCount(max(self.agreed, receipt.cumulative_tokens))
