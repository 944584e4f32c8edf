"""The parts that serve and settle, put together from a market and models."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from fabstir.chain.contracts import MarketplaceTerms
from fabstir.chain.gas_price import watch_gas_price
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
from fabstir.primitives.ids import NATIVE_TOKEN, Address
from fabstir.proofs.receipt_chain import ReceiptChainProver
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.exchange.handshake import Party
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
from fabstir.serving.answer import AnswerServices
from fabstir.serving.book import SessionBook
from fabstir.serving.gate import Gate
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
    door: SessionDoor


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
    contract_terms = await marketplace.terms()
    terms = host_terms(settings, contract_terms, usdc=market.contracts.usdc.address)
    contract = MarketplaceOnChain(
        marketplace=marketplace,
        chain=market.chain,
        db=market.db,
        queue=market.queue,
        gas=await watch_gas_price(market.chain, time.monotonic),
    )

    party = Party(domain=domain, host=host, crypto=NATIVE)
    book = SessionBook(ledger, secrets.token_bytes)
    records = ChainRecords(
        contract=contract,
        ledger=ledger,
        domain=domain,
        clock=time.time,
        on_restart=book.forget,
    )
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
        prover=ReceiptChainProver(),
        checkpoints=checkpoints,
        contract=contract,
        records=records,
        terms=terms,
        live=book,
        observe=metrics.tokens_proven.inc,
        on_mined=checkpoint_files.changed,
    )
    settler = Settler(
        ledger=ledger,
        claimer=claimer,
        contract=contract,
        records=records,
        terms=terms,
        live=book,
        dispute_window=contract_terms.dispute_window,
        reconnect_grace=settings.host.reconnect_grace_seconds,
        clock=time.time,
        serving_since=time.time(),
        poll_seconds=settings.chain.poll_seconds,
    )
    admission = JobAdmission(
        contract=contract,
        records=records,
        terms=terms,
        host=host,
        clock=time.time,
    )
    rail = SessionJobRail(admission=admission, settler=settler)
    gate = Gate(
        party=party,
        rail=rail,
        ledger=ledger,
        models=models,
        encryption_secret=encryption_secret,
    )
    answers = AnswerServices(
        ledger=ledger,
        domain=domain,
        crypto=NATIVE,
        wallet_secret=wallet_secret,
        acknowledgement_timeout=settings.host.acknowledgement_timeout_seconds,
        rail=rail,
        random=secrets.token_bytes,
        observe_first_token=lambda name, seconds: metrics.first_token_seconds.labels(name).observe(
            seconds
        ),
        observe_tokens=lambda name, num: metrics.tokens_delivered.labels(name).inc(num),
    )
    door = SessionDoor(
        DoorServices(
            answers=answers,
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
    follower = SessionFollower(
        contract=contract,
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
