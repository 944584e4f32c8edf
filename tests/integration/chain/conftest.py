"""A real devnet for each module; tests that harm a chain start an anvil of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fabstir.chain.anvil import DEV_CHAIN_ID, open_anvil
from fabstir.chain.cheats import set_balance
from fabstir.chain.contracts import ModelRegistry
from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet, public_test_key
from fabstir.chain.keystore import Signer
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import (
    TransactionOptions,
    TransactionQueue,
    open_transaction_queue,
)
from fabstir.db import Database, open_database
from fabstir.primitives.ids import Hash32, ModelId
from fabstir.primitives.units import Wei

MODEL = DevModel("org/tiny-model-gguf", "tiny-q4.gguf", Hash32("0x" + "ab" * 32))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model_id() -> ModelId:
    return ModelRegistry.model_id(MODEL.repo, MODEL.file)


@pytest.fixture(scope="module")
async def devnet(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncGenerator[Devnet]:
    folder = tmp_path_factory.mktemp("devnet")
    async with open_devnet(folder, [MODEL], DevnetParameters(port=0)) as net:
        yield net


@pytest.fixture
async def db(tmp_path: Path) -> AsyncGenerator[Database]:
    async with open_database(f"sqlite:///{tmp_path}/journal.db") as database:
        yield database


@pytest.fixture
async def rpc_url() -> AsyncGenerator[str]:
    """An empty chain of the test's own."""
    async with open_anvil() as url:
        yield url


@pytest.fixture
async def chain(rpc_url: str) -> AsyncGenerator[Chain]:
    async with open_chain(rpc_url, chain_id=DEV_CHAIN_ID) as opened:
        yield opened


@pytest.fixture
async def signer(chain: Chain) -> Signer:
    """An account with 100 coins."""
    made = public_test_key("of a test")
    await set_balance(chain, made.address, Wei(100 * 10**18))
    return made


@pytest.fixture
async def queue(chain: Chain, signer: Signer, db: Database) -> AsyncGenerator[TransactionQueue]:
    async with open_transaction_queue(chain, signer, db, IMPATIENT) as opened:
        yield opened


IMPATIENT = TransactionOptions(poll_interval=0.05, stuck_after=0.3, timeout=5.0, final_depth=5)
