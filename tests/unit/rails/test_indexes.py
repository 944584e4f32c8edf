"""The indexes of checkpoints: behind the claims that they list, written by themselves."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.unit.protocol.exchange.meeting import HOST, JOB
from tests.unit.rails.hosting import Disk, OpenRail, open_rail
from tests.unit.rails.memory_contract import MemoryContract

from fabstir.primitives.errors import NotFound
from fabstir.protocol.checkpoint import index_path
from fabstir.protocol.limits import MAX_FRAME_BYTES

pytestmark = pytest.mark.anyio


async def index(rail: OpenRail) -> bytes:
    return await rail.files.files.get(index_path(HOST, JOB), MAX_FRAME_BYTES)


@asynccontextmanager
async def writing(rail: OpenRail) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rail.files.run)
        yield
        tasks.cancel_scope.cancel()


async def claimed(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(10)
    await rail.claimer.claim(JOB)


async def until_written(rail: OpenRail) -> bytes:
    """The index, once it is as the journal has it."""
    with anyio.fail_after(60):
        while True:
            try:
                if (there := await index(rail)) == await rail.checkpoints.index(JOB):
                    return there
            except NotFound:
                pass  # not yet
            await anyio.sleep(0)


async def test_a_claim_is_in_the_index_that_anybody_reads(rail: OpenRail) -> None:
    async with writing(rail):
        await claimed(rail)
        entries = json.loads(await until_written(rail))["checkpoints"]

    [claim] = await rail.ledger.claims(JOB)
    assert [entry["proofHash"] for entry in entries] == [claim.proof_hash]


async def test_a_session_without_a_mined_claim_has_none(rail: OpenRail) -> None:
    await rail.admit()
    rail.files.changed(JOB)

    assert await rail.files.write_stale()
    assert await rail.checkpoints.index(JOB) is None
    with pytest.raises(NotFound):
        await index(rail)


async def test_a_full_disk_delays_it(rail: OpenRail) -> None:
    await claimed(rail)
    rail.blobs.num_refused = 3
    async with writing(rail):
        await until_written(rail)

    assert rail.blobs.num_refused == 0


async def test_what_a_kill_left_behind_is_written_at_the_next_start(
    tmp_path: Path, contract: MemoryContract
) -> None:
    disk = Disk()
    async with open_rail(tmp_path, contract, disk=disk) as rail:
        await claimed(rail)
    async with open_rail(tmp_path, contract, disk=disk) as rail, writing(rail):
        await until_written(rail)


async def test_an_index_that_is_there_is_not_written_again(rail: OpenRail) -> None:
    await claimed(rail)
    assert await rail.files.write_stale()
    num_puts = rail.blobs.num_puts
    rail.files.changed(JOB)

    assert await rail.files.write_stale()
    assert rail.blobs.num_puts == num_puts
