"""A devnet that is started again under a running program: no money moves on the new one."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import TaskStatus

from fabstir.chain.anvil import DEV_CHAIN_ID, open_anvil
from fabstir.chain.cheats import set_balance
from fabstir.chain.devnet import public_test_key
from fabstir.chain.identity import confirm_chain_identity
from fabstir.chain.records import Block, ContractCall
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import open_transaction_queue
from fabstir.db import open_database
from fabstir.primitives.errors import ChainReplaced, ConfigError
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SIGNER = public_test_key("replaced")


async def run_anvil(
    port: int, until: anyio.Event, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
) -> None:
    """In a task of its own, so that it may end before what was opened after it."""
    async with open_anvil(port=port) as url:
        task_status.started(url)
        await until.wait()


async def test_nothing_is_sent_on_another_chain_of_the_same_id(tmp_path: Path) -> None:
    call = ContractCall(to=SIGNER.address, data=b"", value=Wei(1), description="a transfer")
    ends = anyio.Event()
    async with anyio.create_task_group() as second, anyio.create_task_group() as first:
        url = await first.start(run_anvil, 0, ends)
        async with (
            open_chain(url, chain_id=DEV_CHAIN_ID) as chain,
            open_database(f"sqlite:///{tmp_path}/journal.db") as db,
            open_transaction_queue(chain, SIGNER, db) as queue,
        ):
            await set_balance(chain, SIGNER.address, Wei(10**18))
            await queue.send("first", call)
            await confirm_chain_identity(chain, db)
            before = await chain.block(0)

            ends.set()
            # Its first block bears the second in which it was started.
            await second.start(replace_anvil, url, chain, before)
            await set_balance(chain, SIGNER.address, Wei(10**18))
            with pytest.raises(ChainReplaced, match="another data folder"):
                await confirm_chain_identity(chain, db)
            with pytest.raises(ChainReplaced):
                await queue.send("second", call)
            assert await chain.nonce(SIGNER.address) == 0
            second.cancel_scope.cancel()


async def replace_anvil(
    url: str,
    chain: Chain,
    before: Block | None,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Start anvil at the same port, as soon as that is free, until its genesis is another one."""
    port = urlsplit(url).port or 0
    while True:
        try:
            async with open_anvil(port=port):
                if await chain.block(0) != before:
                    task_status.started()
                    await anyio.sleep_forever()
        except ConfigError:  # the port is not free yet
            continue
