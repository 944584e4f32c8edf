"""The parts that serve and settle, put together from a market and a model."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from anyio.abc import TaskGroup

from fabstir.api.strangers import Strangers
from fabstir.api.websocket import WebSocketDoor
from fabstir.crypto import NATIVE
from fabstir.db.host_sessions import SessionRow
from fabstir.jobs.answer import AnswerServices
from fabstir.jobs.book import SessionBook
from fabstir.jobs.checkpoint_files import CheckpointFiles
from fabstir.jobs.checkpoints import Checkpoints
from fabstir.jobs.claims import Claimer
from fabstir.jobs.connection import ClientConnection, ReportError, Transmit
from fabstir.jobs.follower import SessionFollower
from fabstir.jobs.gate import Gate
from fabstir.jobs.settler import Settler
from fabstir.market.ledger import HostLedger
from fabstir.node.market import HostMarket
from fabstir.node.metrics import HostMetrics
from fabstir.node.model import ServedModel
from fabstir.protocol.eip712 import Domain
from fabstir.storage.fs import FileSystem
from fabstir.storage.ports import Blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWork:
    """Serving, claiming and settling, for one host."""

    ledger: HostLedger
    blobs: Blobs
    book: SessionBook
    checkpoints: Checkpoints
    checkpoint_files: CheckpointFiles
    settler: Settler
    follower: SessionFollower
    door: WebSocketDoor


async def build_work(
    market: HostMarket,
    model: ServedModel,
    metrics: HostMetrics,
    blobs: Blobs,
    files: FileSystem,
    encryption_secret: bytes,
    strangers: Strangers,
) -> HostWork:
    """Make them, in the order in which they depend on one another.

    Args:
        blobs: where proofs and checkpoints are kept.
        files: this node's file system, where the checkpoints' indexes lie.
        strangers: counts what callers cost who are not known yet.
    """
    settings, marketplace = market.settings, market.contracts.marketplace
    host, wallet_secret = market.signer.address, market.signer.secret_key
    domain = Domain(settings.chain.chain_id, marketplace.address)
    ledger = HostLedger(market.db, domain.chain_id, domain.contract)
    chain_time = _chain_clock(market)
    terms = await marketplace.terms()
    gate = Gate(
        marketplace=marketplace,
        ledger=ledger,
        domain=domain,
        host=host,
        model_id=model.model_id,
        encryption_secret=encryption_secret,
        crypto=NATIVE,
        chain_time=chain_time,
        clock=time.time,
    )
    book = SessionBook(gate, ledger, secrets.token_bytes)
    checkpoints = Checkpoints(
        blobs=blobs,
        ledger=ledger,
        host=host,
        wallet_secret=wallet_secret,
        crypto=NATIVE,
        random=secrets.token_bytes,
    )
    checkpoint_files = CheckpointFiles(checkpoints, files)
    claimer = Claimer(
        ledger=ledger,
        checkpoints=checkpoints,
        marketplace=marketplace,
        queue=market.queue,
        book=book,
        min_proven_tokens=terms.min_proven_tokens,
        observe=metrics.tokens_proven.inc,
        on_mined=checkpoint_files.changed,
    )
    configured = settings.host.max_unproven_tokens

    def max_unproven(row: SessionRow) -> int:
        return configured or row.proof_interval

    settler = Settler(
        ledger=ledger,
        claimer=claimer,
        marketplace=marketplace,
        queue=market.queue,
        book=book,
        dispute_window=terms.dispute_window,
        reconnect_grace=settings.host.reconnect_grace_seconds,
        max_unproven=max_unproven,
        chain_time=chain_time,
        clock=time.time,
        serving_since=time.time(),
        poll_seconds=settings.chain.poll_seconds,
    )
    services = AnswerServices(
        engine=model.engine,
        ledger=ledger,
        domain=domain,
        crypto=NATIVE,
        wallet_secret=wallet_secret,
        model_digest=model.digest,
        acknowledgement_timeout=settings.host.acknowledgement_timeout_seconds,
        max_unproven=lambda session: max_unproven(session.row),
        claim_soon=settler.claim_soon,
        random=secrets.token_bytes,
        observe_first_token=metrics.first_token_seconds.observe,
        observe_tokens=metrics.tokens_delivered.inc,
    )

    def connect(transmit: Transmit, report: ReportError, tasks: TaskGroup) -> ClientConnection:
        return ClientConnection(
            services=services,
            book=book,
            host=host,
            close_session=settler.close,
            transmit=transmit,
            report_error=report,
            tasks=tasks,
        )

    door = WebSocketDoor(connect, strangers)
    metrics.live_sessions.set_function(lambda: len(book))
    metrics.sockets.set_function(lambda: len(door))
    follower = SessionFollower(
        marketplace=marketplace,
        ledger=ledger,
        settler=settler,
        domain=domain,
        host=host,
        clock=time.time,
    )
    return HostWork(
        ledger=ledger,
        blobs=blobs,
        book=book,
        checkpoints=checkpoints,
        checkpoint_files=checkpoint_files,
        settler=settler,
        follower=follower,
        door=door,
    )


def _chain_clock(market: HostMarket) -> Callable[[], Awaitable[int]]:
    """The chain's time: its newest block's, or this machine's where no block came for a while."""

    async def chain_time() -> int:
        return max(int(time.time()), (await market.chain.latest_block()).timestamp)

    return chain_time
