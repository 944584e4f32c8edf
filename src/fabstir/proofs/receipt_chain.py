"""The chain of receipts as evidence: its head's hash on chain, its links for anyone to read.

Each receipt is signed by the host and names the one before it; the acknowledgements are signed by
the renter's session key. So the head binds all that was claimed, and whoever has the bundle needs
no model and no trust in either side to count it again. docs/protocol.md, section 10.
"""

from __future__ import annotations

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.proofs.prover import ClaimedWork, Evidence

BUNDLE_VERSION = 3
"""2: only the receipts since the claim before, whose last one the first of them names. 3: those of
fabstir/2."""


class ReceiptChainProver:
    """The renter's own agreement is the proof. See `Prover`."""

    async def prove(self, work: ClaimedWork) -> Evidence:
        links: list[Json] = [
            {"receipt": link.receipt, "acknowledgement": link.acknowledgement}
            for link in work.receipts
        ]
        session = work.session
        bundle = canonical_json(
            {
                "version": BUNDLE_VERSION,
                "chainId": session.chain_id,
                "contract": session.contract,
                "jobId": str(session.job_id),
                "renterKey": session.signer,
                "receipts": links,
            }
        )
        return Evidence(proof_hash=work.head.receipt_hash, bundle=bundle)
