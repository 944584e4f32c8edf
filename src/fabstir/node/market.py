"""A host's wallet on a chain: all that registering, withdrawing and serving have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fabstir.chain.account_lock import sole_user
from fabstir.chain.contracts import Contracts
from fabstir.chain.deployment import load_deployment, locate_deployment
from fabstir.chain.keystore import Signer, load_keystore, read_secret_file
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import TransactionOptions, TransactionQueue, open_transaction_queue
from fabstir.config import Settings
from fabstir.db import Database, make_data_folder, open_journal
from fabstir.node.registration import Registrar


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMarket:
    """The parts, ready to use."""

    settings: Settings
    signer: Signer
    db: Database
    chain: Chain
    contracts: Contracts
    queue: TransactionQueue

    @property
    def registrar(self) -> Registrar:
        """Brings this wallet's entry in the registry in line."""
        return Registrar(contracts=self.contracts, queue=self.queue)


@asynccontextmanager
async def open_market(settings: Settings) -> AsyncGenerator[HostMarket]:
    """Open the wallet, its journal and the chain, and check them.

    Raises:
        KeystoreError, ConfigError: a key or a setting cannot be used.
        ChainError: the wrong chain, no contracts there, or no answer.
    """
    chain_id, data_dir = settings.chain.chain_id, settings.paths.data_dir
    password = read_secret_file(settings.wallet.password_file)
    signer = await load_keystore(settings.wallet.keystore, password)
    make_data_folder(data_dir)
    deployment = load_deployment(locate_deployment(settings.chain.deployment, chain_id, data_dir))
    options = TransactionOptions(timeout=settings.chain.confirm_timeout_seconds)
    rpc_url = settings.chain.rpc_url
    async with (
        open_journal(settings, "host") as db,
        open_chain(rpc_url, chain_id=chain_id, deployment=deployment) as chain,
        sole_user(chain, signer.address, settings.paths.cache_dir),
        open_transaction_queue(chain, signer, db, options) as queue,
    ):
        yield HostMarket(
            settings=settings,
            signer=signer,
            db=db,
            chain=chain,
            contracts=Contracts.of(chain, deployment),
            queue=queue,
        )
