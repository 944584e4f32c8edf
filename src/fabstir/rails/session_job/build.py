"""The rail put together: all that admits, claims, settles and follows the sessions of one host."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fabstir.chain.contracts import Marketplace
from fabstir.chain.events import SessionCompleted, SessionCreated, SessionTimedOut, event_filter
from fabstir.chain.follower import follow_logs
from fabstir.chain.gas_price import watch_gas_price
from fabstir.chain.keystore import Signer
from fabstir.chain.rpc import Chain
from fabstir.chain.transactions import TransactionQueue
from fabstir.db import Database
from fabstir.market.ledger import HostLedger
from fabstir.market.worth import HostTerms
from fabstir.proofs.prover import Prover
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain
from fabstir.rails.rail import LiveSessions
from fabstir.rails.session_job.admission import JobAdmission
from fabstir.rails.session_job.checkpoint_files import CheckpointFiles
from fabstir.rails.session_job.checkpoints import Checkpoints
from fabstir.rails.session_job.claims import Claimer
from fabstir.rails.session_job.follower import SessionFollower
from fabstir.rails.session_job.marketplace import MarketplaceOnChain
from fabstir.rails.session_job.rail import SessionJobRail
from fabstir.rails.session_job.records import ChainRecords
from fabstir.rails.session_job.settler import Settler
from fabstir.s5.fs import FileSystem
from fabstir.s5.ports import Blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWallet:
    """Who claims, on which chain, and where that is journalled.

    Attributes:
        start_block: of the contract's deployment; no event is older.
        ws_url: a socket that announces blocks; None: they are noticed by looking.
        poll_seconds: between looks at chain and journal, where nothing wakes the rail.
    """

    chain: Chain
    marketplace: Marketplace
    start_block: int
    ws_url: str | None
    poll_seconds: float
    signer: Signer
    queue: TransactionQueue
    db: Database
    ledger: HostLedger
    domain: Domain


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimEvidence:
    """What stands behind claims.

    Attributes:
        blobs: where proofs and checkpoints are kept.
        files: where the checkpoints' indexes lie.
    """

    prover: Prover
    crypto: Crypto
    blobs: Blobs
    files: FileSystem


async def build_rail(
    wallet: HostWallet,
    evidence: ClaimEvidence,
    *,
    terms: HostTerms,
    dispute_window: int,
    reconnect_grace: float,
    live: LiveSessions,
    observe_claimed: Callable[[int], None],
) -> SessionJobRail:
    """Make the parts, in the order in which they depend on one another.

    Args:
        terms: what this host asks of sessions.
        dispute_window: seconds after its last claim before the host may complete.
        reconnect_grace: seconds within which a renter that left may come back.
        live: the sessions that are being served.
        observe_claimed: told of the tokens of each mined claim.

    Raises:
        ChainError: the chain does not answer.
    """
    signer, ledger = wallet.signer, wallet.ledger
    contract = MarketplaceOnChain(
        marketplace=wallet.marketplace,
        chain=wallet.chain,
        db=wallet.db,
        queue=wallet.queue,
        gas=await watch_gas_price(wallet.chain, time.monotonic),
    )
    records = ChainRecords(
        contract=contract,
        ledger=ledger,
        domain=wallet.domain,
        clock=time.time,
        on_restart=live.forget,
    )
    checkpoints = Checkpoints(
        blobs=evidence.blobs,
        ledger=ledger,
        host=signer.address,
        wallet_secret=signer.secret_key,
        crypto=evidence.crypto,
        random=secrets.token_bytes,
    )
    checkpoint_files = CheckpointFiles(checkpoints, evidence.files)
    claimer = Claimer(
        ledger=ledger,
        prover=evidence.prover,
        checkpoints=checkpoints,
        contract=contract,
        records=records,
        terms=terms,
        live=live,
        observe=observe_claimed,
        on_mined=checkpoint_files.changed,
    )
    settler = Settler(
        ledger=ledger,
        claimer=claimer,
        contract=contract,
        records=records,
        terms=terms,
        live=live,
        dispute_window=dispute_window,
        reconnect_grace=reconnect_grace,
        clock=time.time,
        serving_since=time.time(),
        poll_seconds=wallet.poll_seconds,
    )
    admission = JobAdmission(
        contract=contract, records=records, terms=terms, host=signer.address, clock=time.time
    )
    follower = SessionFollower(
        contract=contract, records=records, ledger=ledger, settler=settler, host=signer.address
    )
    tasks = {
        "settlement": settler.run,
        "checkpoint index": checkpoint_files.run,
        "look at the chain's events": partial(_follow, wallet, follower),
    }
    return SessionJobRail(
        admission=admission, settler=settler, checkpoints=checkpoints, background=tasks
    )


async def _follow(wallet: HostWallet, follower: SessionFollower) -> None:
    """Follow the contract's events, until cancelled."""
    address = wallet.marketplace.address
    async with follow_logs(
        wallet.chain,
        wallet.db,
        name=f"sessions:{address}",
        log_filter=event_filter([address], SessionCreated, SessionCompleted, SessionTimedOut),
        start_block=wallet.start_block,
        ws_url=wallet.ws_url,
        poll_interval=wallet.poll_seconds,
    ) as steps:
        await follower.run(steps)
