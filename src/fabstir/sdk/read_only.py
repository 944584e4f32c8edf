"""The composition root of who only looks: no libp2p, and nothing that is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fabstir.chain.contracts import Contracts
from fabstir.chain.identity import check_chain_identity
from fabstir.config import Settings, load_settings
from fabstir.db import make_data_folder, open_journal_reader
from fabstir.sdk.holdings import Holdings
from fabstir.sdk.journal import JournalReader
from fabstir.sdk.parts import connect_chain, find_deployment, load_wallet, payment_tokens
from fabstir.sdk.session_job.reader import MarketplaceReader


@asynccontextmanager
async def open_holdings(settings: Settings | None = None) -> AsyncGenerator[Holdings]:
    """Only look at the wallet and its journal: another process may use both meanwhile.

    Args:
        settings: None: those that `fabstir` uses, by the same file and environment.

    Raises:
        KeystoreError, ConfigError: a key or a setting cannot be used.
        ChainError: the wrong chain, no contracts there, or no answer.
    """
    settings = settings or load_settings()
    wallet = await load_wallet(settings)
    make_data_folder(settings.paths.data_dir)
    deployment = find_deployment(settings)
    async with (
        open_journal_reader(settings, "renter") as db,
        connect_chain(settings, deployment) as chain,
    ):
        await check_chain_identity(chain, db)
        contracts = Contracts.of(chain, deployment)
        yield Holdings(
            wallet=wallet.address,
            tokens=await payment_tokens(chain, deployment),
            chain=chain,
            rail=MarketplaceReader(contracts.marketplace),
            journal=JournalReader(
                db, chain.chain_id, contracts.marketplace.address, wallet.address
            ),
        )
