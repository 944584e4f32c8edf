"""A whole local chain: anvil with our contracts, an approved model and funded accounts.

THE KEYS OF A DEVNET ARE PUBLIC. Anybody can compute them from this file. They exist only on
chain id 31337, for tests and demonstrations; what is sent to them on any other chain is lost.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from fabstir.chain.abi import load_abi
from fabstir.chain.anvil import DEV_CHAIN_ID, open_anvil
from fabstir.chain.cheats import set_balance
from fabstir.chain.contracts import Contracts
from fabstir.chain.deploy import MarketplaceParameters, deploy_contracts
from fabstir.chain.deployment import Deployment, save_deployment
from fabstir.chain.keystore import Signer
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.primitives.ids import Address, Hash32
from fabstir.primitives.units import BasisPoints, Wei

_FEE = BasisPoints(1000)
"""10 %, as on the original's test network."""
_COIN_PER_ACCOUNT = Wei(1_000 * 10**18)
_FAB_PER_ACCOUNT = Wei(10_000 * 10**18)
"""Ten stakes."""
_USDC_PER_ACCOUNT = Wei(10_000 * 10**6)


@dataclass(frozen=True, slots=True)
class DevModel:
    """A model that the devnet approves."""

    repo: str
    file: str
    sha256: Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class DevnetParameters:
    """What may be chosen; the windows are short, so that a demonstration need not wait."""

    port: int = 8545
    """0 for any free one."""
    num_accounts: int = 10
    """Each gets 1,000 native coins, 10,000 FAB and 10,000 USDC."""
    dispute_window: int = 2
    """Seconds."""
    min_proof_timeout: int = 1
    """Seconds."""
    block_time: int | None = None
    """Seconds; None mines each transaction at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devnet:
    """A running devnet."""

    rpc_url: str
    chain: Chain
    contracts: Contracts
    deployment_path: Path
    deployer: Signer
    """Owner of the contracts and treasury of the marketplace."""
    accounts: tuple[Signer, ...]

    @property
    def deployment(self) -> Deployment:
        """Where the contracts are."""
        return self.contracts.deployment


def public_test_key(name: str) -> Signer:
    """A key that everybody knows, for chain id 31337 only."""
    return Signer(NATIVE.keccak256(f"fabstir devnet, public test key: {name}".encode()))


@asynccontextmanager
async def open_devnet(
    folder: Path, models: Sequence[DevModel], parameters: DevnetParameters | None = None
) -> AsyncGenerator[Devnet]:
    """Run a devnet for the length of the block; its state is gone afterwards.

    Args:
        folder: gets the deployment file, `31337.json`.

    Raises:
        ConfigError: no anvil and no way to fetch it, or the port is taken.
    """
    parameters = parameters or DevnetParameters()
    deployer = public_test_key("deployer")
    accounts = tuple(public_test_key(f"account {i}") for i in range(parameters.num_accounts))
    path = folder / f"{DEV_CHAIN_ID}.json"
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(
            open_anvil(port=parameters.port, block_time=parameters.block_time)
        )
        chain = await stack.enter_async_context(open_chain(url, chain_id=DEV_CHAIN_ID))
        for signer in (deployer, *accounts):
            await set_balance(chain, signer.address, _COIN_PER_ACCOUNT)
        async with _temporary_queue(chain, deployer) as queue:
            marketplace = MarketplaceParameters(
                treasury=deployer.address,
                fee=_FEE,
                dispute_window=parameters.dispute_window,
                min_proof_timeout=parameters.min_proof_timeout,
            )
            deployment = await deploy_contracts(chain, queue, marketplace)
            contracts = Contracts.of(chain, deployment)
            for model in models:
                call = contracts.models.add_trusted(model.repo, model.file, model.sha256)
                await queue.send(f"devnet:model:{model.repo}/{model.file}", call)
            await _fund(queue, deployment, accounts)
        save_deployment(path, deployment)
        yield Devnet(
            rpc_url=url,
            chain=chain,
            contracts=contracts,
            deployment_path=path,
            deployer=deployer,
            accounts=accounts,
        )


@asynccontextmanager
async def _temporary_queue(chain: Chain, signer: Signer) -> AsyncGenerator[TransactionQueue]:
    """A queue whose journal is thrown away: so is the chain."""
    with tempfile.TemporaryDirectory(prefix="fabstir-devnet-") as folder:
        async with (
            open_database(f"sqlite:///{folder}/outbox.db") as db,
            open_transaction_queue(chain, signer, db) as queue,
        ):
            yield queue


async def _fund(
    queue: TransactionQueue, deployment: Deployment, accounts: Sequence[Signer]
) -> None:
    """Mint test tokens for all accounts, in as few blocks as the chain likes."""
    amounts = ((deployment.fab_token, _FAB_PER_ACCOUNT), (deployment.usdc, _USDC_PER_ACCOUNT))
    async with anyio.create_task_group() as tasks:
        for signer in accounts:
            for token, amount in amounts:
                call = _mint(token, signer.address, amount)
                tasks.start_soon(queue.send, f"devnet:mint:{token}:{signer.address}", call)


def _mint(token: Address, to: Address, amount: Wei) -> ContractCall:
    data = load_abi("TestFab").functions["mint"].encode(to, amount)
    return ContractCall(to=token, data=data, description=f"minting {amount} for {to}")
