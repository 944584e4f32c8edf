"""The parts that serve and settle, put together from a market and models."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fabstir.chain.contracts import MarketplaceTerms
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.doors.errors import error_message
from fabstir.doors.session import DoorServices, SessionDoor
from fabstir.doors.strangers import Strangers
from fabstir.market.ledger import HostLedger
from fabstir.market.worth import HostTerms
from fabstir.node.market import HostMarket
from fabstir.node.metrics import HostMetrics
from fabstir.node.models import host_prices, model_prices
from fabstir.primitives.ids import NATIVE_TOKEN, Address, JobId
from fabstir.proofs.receipt_chain import ReceiptChainProver
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.exchange.handshake import Party
from fabstir.rails.rail import Rail
from fabstir.rails.session_job.build import ClaimEvidence, HostWallet, build_rail
from fabstir.rails.session_job.rail import SessionJobRail
from fabstir.s5.fs import FileSystem
from fabstir.s5.ports import Blobs
from fabstir.serving.answer import AnswerServices
from fabstir.serving.book import SessionBook
from fabstir.serving.gate import Gate
from fabstir.serving.models import ServedModels


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWork:
    """Serving and being paid, for one host.

    Attributes:
        checkpoint_index: what was published with the claims of a session; None: nothing.
    """

    book: SessionBook
    rail: SessionJobRail
    door: SessionDoor
    checkpoint_index: Callable[[JobId], Awaitable[bytes | None]]


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
    marketplace = market.contracts.marketplace
    domain = Domain(market.settings.chain.chain_id, marketplace.address)
    ledger = HostLedger(market.db, domain.chain_id, domain.contract)
    book = SessionBook(ledger, secrets.token_bytes)
    evidence = ClaimEvidence(prover=ReceiptChainProver(), crypto=NATIVE, blobs=blobs, files=files)
    rail = await _build_rail(market, ledger, domain, evidence, book, metrics)
    party = Party(domain=domain, host=market.signer.address, crypto=NATIVE)
    gate = Gate(
        party=party,
        rail=rail,
        ledger=ledger,
        models=models,
        encryption_secret=encryption_secret,
    )
    door = SessionDoor(
        DoorServices(
            answers=_answers(market, ledger, domain, rail, metrics),
            gate=gate,
            book=book,
            party=party,
            strangers=strangers,
            describe_error=error_message,
        )
    )
    metrics.watch(models)
    metrics.live_sessions.set_function(lambda: len(book))
    metrics.sockets.set_function(lambda: len(door))
    return HostWork(book=book, rail=rail, door=door, checkpoint_index=rail.checkpoints.index)


async def _build_rail(
    market: HostMarket,
    ledger: HostLedger,
    domain: Domain,
    evidence: ClaimEvidence,
    book: SessionBook,
    metrics: HostMetrics,
) -> SessionJobRail:
    settings, marketplace = market.settings, market.contracts.marketplace
    contract = await marketplace.terms()
    wallet = HostWallet(
        chain=market.chain,
        marketplace=marketplace,
        start_block=market.contracts.deployment.block_number,
        ws_url=settings.chain.ws_url,
        poll_seconds=settings.chain.poll_seconds,
        signer=market.signer,
        queue=market.queue,
        db=market.db,
        ledger=ledger,
        domain=domain,
    )
    return await build_rail(
        wallet,
        evidence,
        terms=host_terms(settings, contract, usdc=market.contracts.usdc.address),
        dispute_window=contract.dispute_window,
        reconnect_grace=settings.host.reconnect_grace_seconds,
        live=book,
        observe_claimed=metrics.tokens_proven.inc,
    )


def _answers(
    market: HostMarket, ledger: HostLedger, domain: Domain, rail: Rail, metrics: HostMetrics
) -> AnswerServices:
    return AnswerServices(
        ledger=ledger,
        domain=domain,
        crypto=NATIVE,
        wallet_secret=market.signer.secret_key,
        acknowledgement_timeout=market.settings.host.acknowledgement_timeout_seconds,
        rail=rail,
        random=secrets.token_bytes,
        observe_first_token=lambda name, seconds: metrics.first_token_seconds.labels(name).observe(
            seconds
        ),
        observe_tokens=lambda name, num: metrics.tokens_delivered.labels(name).inc(num),
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
