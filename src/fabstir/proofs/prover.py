"""What stands behind a claim: the port, and what goes in and comes out.

A prover is chosen in the composition root, one for a host. It sees a claim after the renter agreed
to its tokens and before anything of it is journalled or sent; what it gives is stored and named on
chain, and is never asked for again for the same claim, also after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fabstir.db.host_sessions import SessionRow
from fabstir.db.receipts import ReceiptRow
from fabstir.primitives.ids import Hash32
from fabstir.primitives.units import TokenCount


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedWork:
    """The tokens of one claim.

    Attributes:
        session: of which contract and job, and whose key agreed.
        claim_index: from 0, per session.
        start_token: cumulative tokens of the claim before; 0 for the first.
        receipts: the chain from there on, first receipt first; at least one. Acknowledgements may
            stand at some of them only: each agrees to all before it.
    """

    session: SessionRow
    claim_index: int
    start_token: TokenCount
    receipts: tuple[ReceiptRow, ...]

    @property
    def head(self) -> ReceiptRow:
        """The last receipt, which says yes to all of the claim."""
        return self.receipts[-1]

    @property
    def end_token(self) -> TokenCount:
        """Cumulative tokens with which the claim ends."""
        return self.head.cumulative_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What anyone can hold a claim to.

    Attributes:
        proof_hash: goes on chain, where it counts once for a marketplace and host: it has to
            depend on the job and on what is claimed of it.
        bundle: with which `proof_hash` is checked; published under the claim's `proofCID`.
    """

    proof_hash: Hash32
    bundle: bytes


class Prover(Protocol):
    """Makes the evidence for claims."""

    async def prove(self, work: ClaimedWork) -> Evidence:
        """Evidence for all of `work`.

        The claim waits for it, and an answer may wait for the claim: what takes longer than seconds
        is begun beforehand and, if it is not done, given up for evidence that is. What a prover
        needs beside receipts (token ids, a model) it gets where it is made.
        """
        ...
