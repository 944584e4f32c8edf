"""The renter's rail put together, from what its client has opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httpx

from fabstir.chain.contracts import Contracts
from fabstir.chain.rpc import Chain
from fabstir.chain.transactions import TransactionQueue
from fabstir.protocol.crypto import Crypto
from fabstir.sdk.journal import RenterJournal
from fabstir.sdk.session_job.checkpoints import CheckpointReader
from fabstir.sdk.session_job.deposits import Deposits
from fabstir.sdk.session_job.rail import SessionJobPayments
from fabstir.sdk.session_job.watcher import Watcher


def build_payments(
    chain: Chain,
    contracts: Contracts,
    queue: TransactionQueue,
    journal: RenterJournal,
    *,
    client: httpx.AsyncClient,
    portals: Sequence[str],
    crypto: Crypto,
    clock: Callable[[], float],
) -> SessionJobPayments:
    """Make the parts, in the order in which they depend on one another.

    Args:
        client, portals: by which checkpoints are read, where their host does not give them.
        clock: Unix time in seconds.
    """
    deposits = Deposits(chain=chain, contracts=contracts, queue=queue, journal=journal)
    watcher = Watcher(
        chain=chain,
        contracts=contracts,
        queue=queue,
        journal=journal,
        deposits=deposits,
        clock=clock,
    )
    checkpoints = CheckpointReader(
        chain=chain,
        marketplace=contracts.marketplace,
        client=client,
        portals=portals,
        crypto=crypto,
    )
    return SessionJobPayments(
        chain=chain,
        contracts=contracts,
        journal=journal,
        deposits=deposits,
        watcher=watcher,
        checkpoints=checkpoints,
        crypto=crypto,
    )
