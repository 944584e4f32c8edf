"""A whole local chain: anvil with our contracts, an approved model and funded accounts.

THE KEYS OF A DEVNET ARE PUBLIC. Anybody can compute them from this file. They are for tests and
demonstrations on a devnet alone; what is sent to them on any public chain is lost.

Its chain id is 31337, which no public chain has. Another is for software that insists on one. What
is signed there by a key that is used on the public chain of that id as well counts on both: anybody
can replay it. So use a devnet's own keys, or new ones, and never those of a wallet with money.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from fabstir.chain.abi import load_abi
from fabstir.chain.anvil import DEV_CHAIN_ID, open_anvil
from fabstir.chain.cheats import send_as, set_balance, set_interval_mining, set_next_base_fee
from fabstir.chain.contracts import Contracts
from fabstir.chain.deploy import MarketplaceParameters, deploy_contracts
from fabstir.chain.deployment import Deployment, save_deployment
from fabstir.chain.keystore import Signer
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.primitives.errors import ChainError, ConfigError
from fabstir.primitives.ids import Address, ChainId, Hash32
from fabstir.primitives.units import BasisPoints, Wei
from fabstir.telemetry.background import running

_FEE = BasisPoints(1000)
"""10 %, as on the original's test network."""
_COIN_PER_ACCOUNT = Wei(1_000 * 10**18)
_FAB_PER_ACCOUNT = Wei(10_000 * 10**18)
"""Ten stakes."""
_USDC_PER_ACCOUNT = Wei(10_000 * 10**6)


_MAX_CHAIN_ID = 2**53 - 1
"""The largest that JavaScript clients hold exactly."""
_MAX_BASE_FEE = 10**12
"""1,000 gwei. At a thousand times that an account's 1,000 coins pay for one deployment."""
_BASE_FEE_POLL_SECONDS = 0.2
"""A few blocks lower the fee by less than the half that a transaction's limit allows for."""
_MAX_BLOCK_TIME = 3600
"""Seconds: nobody waits longer for a test's block."""


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
    """Seconds between blocks; each transaction gets one at once as well. None: only the latter."""
    interval_only: bool = False
    """Blocks come by `block_time` alone, as on a public chain."""
    chain_id: ChainId = DEV_CHAIN_ID
    base_fee: Wei = Wei(100)
    """Wei a gas. Nearly nothing, so that a conversation of a few tokens is worth its settlement; on
    Base it is about 5,000,000.
    """

    def __post_init__(self) -> None:
        """Refuse what anvil refuses late, or in words that name no option.

        Raises:
            ConfigError: names the option and what it may be.
        """
        _check_range("--port", self.port, 0, 65_535)
        _check_range("--chain-id", self.chain_id, 1, _MAX_CHAIN_ID)
        _check_range("--base-fee", self.base_fee, 0, _MAX_BASE_FEE)
        if self.block_time is not None:
            _check_range("--block-time", self.block_time, 1, _MAX_BLOCK_TIME)
        elif self.interval_only:
            raise ConfigError(
                "--interval-only needs --block-time: say how many seconds lie between blocks"
            )


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
    """A key that everybody knows, for devnets only."""
    return Signer(NATIVE.keccak256(f"fabstir devnet, public test key: {name}".encode()))


@asynccontextmanager
async def open_devnet(
    folder: Path, models: Sequence[DevModel], parameters: DevnetParameters | None = None
) -> AsyncGenerator[Devnet]:
    """Run a devnet for the length of the block; its state is gone afterwards.

    Args:
        folder: gets the deployment file, named after the chain id: `31337.json`.

    Raises:
        ConfigError: no anvil and no way to fetch it, or the port is taken.
    """
    parameters = parameters or DevnetParameters()
    deployer = _deployer(parameters.chain_id)
    accounts = tuple(public_test_key(f"account {i}") for i in range(parameters.num_accounts))
    chain_id = parameters.chain_id
    path = folder / f"{chain_id}.json"
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(
            open_anvil(
                port=parameters.port,
                chain_id=chain_id,
                block_time=parameters.block_time,
                base_fee=parameters.base_fee,
            )
        )
        chain = await stack.enter_async_context(open_chain(url, chain_id=chain_id))
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
        funding = _funding(deployment, accounts)
        # Twice the fee of the first block: those behind it are hardly filled, so it only falls.
        await send_as(chain, deployer.address, funding, max_fee=Wei(2 * parameters.base_fee))
        save_deployment(path, deployment)
        if parameters.block_time is not None and parameters.interval_only:
            # Only now: the deployment's transactions would wait for a block each.
            await set_interval_mining(chain, parameters.block_time)
        await set_next_base_fee(chain, parameters.base_fee)
        await stack.enter_async_context(running(partial(_hold_base_fee, chain, parameters)))
        yield Devnet(
            rpc_url=url,
            chain=chain,
            contracts=contracts,
            deployment_path=path,
            deployer=deployer,
            accounts=accounts,
        )


async def _hold_base_fee(chain: Chain, parameters: DevnetParameters) -> None:
    """Keep the fee where it was asked for: blocks that are hardly filled lower it by an eighth
    each, to 7 wei in the end.
    """
    seen = await chain.block_number()
    while True:
        await anyio.sleep(_BASE_FEE_POLL_SECONDS)
        with suppress(ChainError):  # a test may have stopped the chain for a while
            head = await chain.block_number()
            if head != seen:
                await set_next_base_fee(chain, parameters.base_fee)
                seen = head


def _deployer(chain_id: ChainId) -> Signer:
    """A new key where the id may be a public chain's: with a known one anybody could put contracts
    of their own at the same addresses there, for a deployment file that is left over to find.
    """
    if chain_id == DEV_CHAIN_ID:
        return public_test_key("deployer")
    return Signer(secrets.token_bytes(32))


@asynccontextmanager
async def _temporary_queue(chain: Chain, signer: Signer) -> AsyncGenerator[TransactionQueue]:
    """A queue whose journal is thrown away: so is the chain."""
    with tempfile.TemporaryDirectory(prefix="fabstir-devnet-") as folder:
        async with (
            open_database(f"sqlite:///{folder}/outbox.db") as db,
            open_transaction_queue(chain, signer, db) as queue,
        ):
            yield queue


def _funding(deployment: Deployment, accounts: Sequence[Signer]) -> list[ContractCall]:
    """Test tokens for all accounts."""
    amounts = ((deployment.fab_token, _FAB_PER_ACCOUNT), (deployment.usdc, _USDC_PER_ACCOUNT))
    return [
        _mint(token, signer.address, amount) for signer in accounts for token, amount in amounts
    ]


def _check_range(option: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{option} is {value}: it must be from {least} to {most}")


def _mint(token: Address, to: Address, amount: Wei) -> ContractCall:
    data = load_abi("TestFab").functions["mint"].encode(to, amount)
    return ContractCall(to=token, data=data, description=f"minting {amount} for {to}")
