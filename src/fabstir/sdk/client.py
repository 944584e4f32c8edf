"""The renter's composition root: everything is made here, from top to bottom in start order."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio

from fabstir.chain.account_lock import sole_user
from fabstir.chain.contracts import Contracts
from fabstir.chain.transactions import TransactionOptions, open_transaction_queue
from fabstir.config import Settings, load_settings
from fabstir.crypto import NATIVE as NATIVE_CRYPTO
from fabstir.db import make_data_folder, open_journal
from fabstir.p2p import P2PConfig, open_p2p
from fabstir.primitives.groups import only_error
from fabstir.s5.portals import expand
from fabstir.s5.portals import open_client as open_portal_client
from fabstir.sdk.discovery import Discovery
from fabstir.sdk.door import Doors, open_hosts_client
from fabstir.sdk.holdings import Holdings
from fabstir.sdk.journal import RenterJournal
from fabstir.sdk.parts import connect_chain, find_deployment, load_wallet, payment_tokens
from fabstir.sdk.registered import registered_url
from fabstir.sdk.renter import AsyncClient
from fabstir.sdk.session import SessionServices
from fabstir.sdk.session_job.build import build_payments
from fabstir.sdk.session_job.reader import MarketplaceReader
from fabstir.sdk.transports import Transports
from fabstir.sdk.websocket import WebSocketDialer
from fabstir.web.reach import Reach


@asynccontextmanager
async def open_async_client(
    settings: Settings | None = None, *, clock: Callable[[], float] = time.time
) -> AsyncGenerator[AsyncClient]:
    """Open the wallet, its journal, the chain and libp2p, and watch over unfinished sessions.

    Args:
        settings: None: those that `fabstir` uses, by the same file and environment.
        clock: Unix time in seconds.

    Raises:
        KeystoreError, ConfigError: a key or a setting cannot be used.
        ChainError: the wrong chain, no contracts there, or no answer.
    """
    try:
        async with _open_parts(settings or load_settings(), clock) as client:
            yield client
    except BaseExceptionGroup as group:
        # The parts run in task groups, which wrap whatever the app raises in its block.
        error = only_error(group)
        if error is None:
            raise
        raise error from error.__cause__


@asynccontextmanager
async def _open_parts(
    settings: Settings, clock: Callable[[], float]
) -> AsyncGenerator[AsyncClient]:
    """Every part, from top to bottom in start order."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        wallet = await load_wallet(settings)
        make_data_folder(settings.paths.data_dir)
        deployment = find_deployment(settings)
        db = await enter(open_journal(settings, "renter"))
        chain = await enter(connect_chain(settings, deployment))
        options = TransactionOptions(timeout=settings.chain.confirm_timeout_seconds)
        await enter(sole_user(chain, wallet.address, settings.paths.cache_dir))
        queue = await enter(open_transaction_queue(chain, wallet, db, options))
        p2p = await enter(open_p2p(_p2p_config(settings), NATIVE_CRYPTO, clock=clock))
        reach = Reach(allow_private=settings.network.allow_private)
        http = await enter(open_hosts_client(reach))
        portals = await enter(open_portal_client(reach))

        contracts = Contracts.of(chain, deployment)
        contract = contracts.marketplace.address
        journal = RenterJournal(db, chain.chain_id, contract, wallet.address, clock)
        rail = build_payments(
            chain,
            contracts,
            queue,
            journal,
            client=portals,
            portals=expand(settings.s5.portals),
            crypto=NATIVE_CRYPTO,
            clock=clock,
        )
        transports = Transports([WebSocketDialer(reach)])
        services = SessionServices(
            wallet=wallet,
            journal=journal,
            rail=rail,
            transports=transports,
            find_url=partial(registered_url, contracts.nodes),
            crypto=NATIVE_CRYPTO,
            clock=clock,
            random=secrets.token_bytes,
        )
        discovery = Discovery(
            p2p=p2p,
            contracts=contracts,
            chain_id=chain.chain_id,
            crypto=NATIVE_CRYPTO,
            transports=transports,
            doors=Doors(http=http, crypto=NATIVE_CRYPTO, random=secrets.token_bytes),
            histories=journal.histories,
            random=secrets.SystemRandom(),
        )
        holdings = Holdings(
            wallet=wallet.address,
            tokens=await payment_tokens(chain, deployment),
            chain=chain,
            rail=MarketplaceReader(contracts.marketplace),
            journal=journal,
        )
        tasks = await enter(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(rail.run)
        yield AsyncClient(
            settings=settings,
            chain=chain,
            discovery=discovery,
            services=services,
            holdings=holdings,
        )


def _p2p_config(settings: Settings) -> P2PConfig:
    """A client of the DHT, beside a host on the same machine if there is one."""
    return P2PConfig(
        identity_path=settings.paths.data_dir / "renter-identity.key",
        tcp_port=0,
        bootstrap=settings.p2p.bootstrap,
        reach=Reach(allow_private=settings.network.allow_private),
        dht_mode="client",
    )
