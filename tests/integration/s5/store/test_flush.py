"""The disk fails to flush: what was not flushed is not acknowledged, then or later."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.store import flush_child
from tests.integration.s5.store.helpers import files, get

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.s5.store import open_store

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.mark.skipif(
    platform.machine() not in flush_child.FLUSHES, reason="the numbers of its system calls"
)
async def test_what_was_not_flushed_is_not_acknowledged(folder: Path) -> None:
    done = await anyio.run_process([sys.executable, flush_child.__file__, str(folder)], check=False)
    lines = done.stdout.decode().splitlines()

    assert done.returncode == 0, done.stderr.decode()
    kept, large, part, first, second, unpin = lines
    assert "Input/output error" in large
    assert "Input/output error" in part
    assert "disk I/O error" in first
    # The flush of a later commit would not tell of the pages that were lost before it.
    assert "this process is started again" in second
    assert "this process is started again" in unpin
    async with open_store(folder, NATIVE) as store:
        assert await get(store, Multihash(bytes.fromhex(kept))) == b"flushed"
        # Of the first, the log may have all: as after a kill, it is there or not, as a whole.
        assert (await store.usage()).num_blobs - 1 == (
            await store.size(Multihash(NATIVE.blake3(b"one"))) is not None
        )
        assert files(folder) == []
        await store.put(b"two", owner="a", reason="test")
