"""`fabstir devnet` as other programs use it: a chain id of their choice, blocks by the clock."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio
import pytest
from anyio.streams.text import TextReceiveStream
from tests.anvil import mine
from tests.forked import open_forked

from fabstir.chain.deployment import load_deployment, locate_deployment
from fabstir.chain.devnet import public_test_key
from fabstir.chain.keystore import Signer
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import open_transaction_queue
from fabstir.db import Database
from fabstir.primitives.ids import Address, ChainId, Hash32
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BASE_SEPOLIA = ChainId(84532)
START_TIMEOUT = 60.0


@asynccontextmanager
async def running_devnet(data_dir: Path, *options: str) -> AsyncGenerator[dict[str, Any]]:
    """The facts that the command prints as JSON when its chain is ready."""
    arguments = ["--json", f"--config={data_dir / 'config.toml'}"]
    arguments += [f"--set=paths.data_dir={data_dir}", "devnet", "--port=0", *options]
    process = await open_forked(arguments, stdin=DEVNULL, stderr=None)
    try:
        assert process.stdout is not None
        text = ""
        with anyio.fail_after(START_TIMEOUT):
            async for piece in TextReceiveStream(process.stdout):
                text += piece
                if text.endswith("}\n"):
                    break
        yield json.loads(text)
    finally:
        with anyio.CancelScope(shield=True):
            process.terminate()
            await process.aclose()


def transfer(to: Address) -> ContractCall:
    return ContractCall(to=to, data=b"", value=Wei(1), description="a transfer")


async def test_another_chain_id_with_blocks_by_the_clock_alone(
    tmp_path: Path, db: Database
) -> None:
    (tmp_path / "config.toml").touch()
    options = ("--chain-id=84532", "--block-time=1", "--interval-only")
    signer = public_test_key("account 0")
    async with running_devnet(tmp_path, *options) as facts:
        path = locate_deployment(None, BASE_SEPOLIA, tmp_path)
        deployment = load_deployment(path)
        async with (
            open_chain(facts["rpc_url"], chain_id=BASE_SEPOLIA, deployment=deployment) as chain,
            open_transaction_queue(chain, signer, db) as queue,
        ):
            first = await queue.send("first", transfer(signer.address))
            second = await queue.send("second", transfer(signer.address))
            num_blocks = await blocks_of_a_burst(chain, facts)

    assert path.name == "84532.json"
    assert facts["chain_id"] == deployment.chain_id == BASE_SEPOLIA
    assert any("can be replayed" in text for text in facts["warnings"])
    assert second.nonce == first.nonce + 1
    assert second.block_number > first.block_number
    assert num_blocks <= 2, "six transactions sent at once cross one tick of the clock at most"


async def blocks_of_a_burst(chain: Chain, facts: dict[str, Any]) -> int:
    """In how many blocks six transactions of six accounts land that are sent at once."""
    fees = await chain.fees()
    hashes: list[Hash32] = []
    for account in facts["accounts"][1:7]:
        signer = Signer(bytes.fromhex(account["public_test_key"][2:]))
        signed = signer.sign_transaction(
            chain_id=chain.chain_id,
            nonce=0,
            to=signer.address,
            value=Wei(1),
            data=b"",
            gas_limit=21_000,
            max_fee_per_gas=fees.max_fee_per_gas,
            max_priority_fee_per_gas=fees.max_priority_fee_per_gas,
        )
        await chain.send_raw(signed.raw)
        hashes.append(signed.tx_hash)
    blocks: set[int] = set()
    with anyio.fail_after(10):
        for tx_hash in hashes:
            while not (receipt := await chain.receipt(tx_hash)):
                await anyio.lowlevel.checkpoint()
            blocks.add(receipt.block_number)
    return len(blocks)


async def test_the_base_fee_stays_where_it_was_asked_for(tmp_path: Path, db: Database) -> None:
    (tmp_path / "config.toml").touch()
    signer = public_test_key("account 0")
    async with (
        running_devnet(tmp_path, "--base-fee=5000000") as facts,
        open_chain(facts["rpc_url"], chain_id=ChainId(31337)) as chain,
        open_transaction_queue(chain, signer, db) as queue,
    ):
        # The newest block's fee is far below: the deployment's blocks were hardly filled.
        with anyio.fail_after(10):
            first = await queue.send("first", transfer(signer.address))
        for num_blocks in (1, 50):
            await mine(chain, num_blocks)
            with anyio.fail_after(10):
                while (await chain.fees()).max_fee_per_gas != 3 * 5_000_000:  # twice, and the tip
                    await anyio.lowlevel.checkpoint()

    assert first.effective_gas_price == 2 * 5_000_000


async def test_gas_is_nearly_free_and_stays_so(tmp_path: Path, db: Database) -> None:
    (tmp_path / "config.toml").touch()
    signer = public_test_key("account 0")
    async with (
        running_devnet(tmp_path) as facts,
        open_chain(facts["rpc_url"], chain_id=ChainId(31337)) as chain,
        open_transaction_queue(chain, signer, db) as queue,
    ):
        at_start = await chain.fees()
        await mine(chain, 200)
        mined = [await queue.send(f"{i}", transfer(signer.address)) for i in range(3)]

    assert at_start.max_fee_per_gas <= 300
    assert all(0 < transaction.effective_gas_price <= 300 for transaction in mined)
    assert facts["chain_id"] == 31337
    assert not any("replayed" in text for text in facts["warnings"])
