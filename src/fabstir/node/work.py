"""The parts that serve and settle, put together from a market and models."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from anyio.abc import TaskGroup

from fabstir.api.errors import error_message
from fabstir.api.strangers import Strangers
from fabstir.api.websocket import WebSocketDoor
from fabstir.chain.contracts import MarketplaceTerms
from fabstir.chain.gas_price import watch_gas_price
from fabstir.chain.identity import confirm_chain_identity
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.jobs.answer import AnswerServices
from fabstir.jobs.book import SessionBook
from fabstir.jobs.checkpoint_files import CheckpointFiles
from fabstir.jobs.checkpoints import Checkpoints
from fabstir.jobs.claims import Claimer
from fabstir.jobs.connection import ClientConnection
from fabstir.jobs.follower import SessionFollower
from fabstir.jobs.gate import Gate
from fabstir.jobs.records import ChainRecords
from fabstir.jobs.settler import Settler
from fabstir.market.ledger import HostLedger
from fabstir.market.worth import HostTerms
from fabstir.node.market import HostMarket
from fabstir.node.metrics import HostMetrics
from fabstir.node.models import host_prices, model_prices
from fabstir.primitives.ids import NATIVE_TOKEN, Address, JobId
from fabstir.protocol.eip712 import Domain
from fabstir.s5.fs import FileSystem
from fabstir.s5.ports import Blobs
from fabstir.serving.models import ServedModels


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
    models: ServedModels,
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
    contract_terms = await marketplace.terms()
    terms = host_terms(settings, contract_terms, usdc=market.contracts.usdc.address)
    gas_price = await watch_gas_price(market.chain, time.monotonic)

    def forget(job_id: JobId) -> None:
        book.forget(job_id)

    records = ChainRecords(
        marketplace=marketplace,
        ledger=ledger,
        domain=domain,
        clock=time.time,
        check_chain=lambda: confirm_chain_identity(market.chain, market.db),
        on_restart=forget,
    )
    gate = Gate(
        marketplace=marketplace,
        records=records,
        ledger=ledger,
        terms=terms,
        gas_price=gas_price,
        domain=domain,
        host=host,
        models=models,
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
        records=records,
        terms=terms,
        gas_price=gas_price,
        queue=market.queue,
        book=book,
        observe=metrics.tokens_proven.inc,
        on_mined=checkpoint_files.changed,
    )
    settler = Settler(
        ledger=ledger,
        claimer=claimer,
        marketplace=marketplace,
        records=records,
        terms=terms,
        gas_price=gas_price,
        queue=market.queue,
        book=book,
        dispute_window=contract_terms.dispute_window,
        reconnect_grace=settings.host.reconnect_grace_seconds,
        chain_time=chain_time,
        clock=time.time,
        serving_since=time.time(),
        poll_seconds=settings.chain.poll_seconds,
    )
    services = AnswerServices(
        ledger=ledger,
        domain=domain,
        crypto=NATIVE,
        wallet_secret=wallet_secret,
        acknowledgement_timeout=settings.host.acknowledgement_timeout_seconds,
        max_unproven=lambda session: settler.max_unproven(session.row),
        claim_soon=settler.claim_soon,
        random=secrets.token_bytes,
        observe_first_token=lambda name, seconds: metrics.first_token_seconds.labels(name).observe(
            seconds
        ),
        observe_tokens=lambda name, num: metrics.tokens_delivered.labels(name).inc(num),
    )

    def connect(tasks: TaskGroup) -> ClientConnection:
        return ClientConnection(
            services=services,
            book=book,
            host=host,
            close_session=settler.close,
            describe_error=error_message,
            tasks=tasks,
        )

    door = WebSocketDoor(connect, strangers)
    metrics.watch(models)
    metrics.live_sessions.set_function(lambda: len(book))
    metrics.sockets.set_function(lambda: len(door))
    follower = SessionFollower(
        marketplace=marketplace,
        records=records,
        ledger=ledger,
        settler=settler,
        host=host,
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


def host_terms(settings: Settings, contract: MarketplaceTerms, *, usdc: Address) -> HostTerms:
    """What this host asks of sessions, as its settings say."""
    host = settings.host
    return HostTerms(
        prices=host_prices(host.price_native_per_million, host.price_usdc_per_million, usdc),
        model_prices=model_prices(settings, usdc),
        min_deposits={NATIVE_TOKEN: host.min_deposit_native, usdc: host.min_deposit_usdc},
        min_proof_interval=host.min_proof_interval_tokens,
        min_duration=host.min_duration_seconds,
        max_unproven=host.max_unproven_tokens,
        fee=contract.fee,
        min_proven=contract.min_proven_tokens,
    )


def _chain_clock(market: HostMarket) -> Callable[[], Awaitable[int]]:
    """The chain's time: its newest block's, or this machine's where no block came for a while."""

    async def chain_time() -> int:
        return max(int(time.time()), (await market.chain.latest_block()).timestamp)

    return chain_time
