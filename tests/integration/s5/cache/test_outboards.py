"""The trees of large blobs are made once, also over a restart."""

import secrets
import time
from pathlib import Path

import pytest

from fabstir.crypto import NATIVE
from fabstir.s5.cache.outboards import MIN_KEPT_BYTES, Outboards
from fabstir.s5.cache.results import open_result_cache
from fabstir.s5.store import open_store
from fabstir.s5.verified.tree import GroupTree

pytestmark = pytest.mark.integration


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_the_tree_of_a_large_blob_outlives_the_process(tmp_path: Path) -> None:
    data = bytes(MIN_KEPT_BYTES + 1)
    hits: list[int] = []

    for _start in range(2):
        async with (
            open_store(tmp_path / "s5", NATIVE) as store,
            open_result_cache(
                store,
                owner="results",
                key=bytes(32),
                crypto=NATIVE,
                random=secrets.token_bytes,
                clock=time.time,
                max_bytes=1 << 20,
                default_ttl=60.0,
            ) as results,
        ):
            blob = await store.put(data, owner="me", reason="file")
            outboard = await Outboards(store, results).get(blob)
            hits.append(results.stats.hits)

            assert GroupTree.decode(blob, outboard).wrong_groups(0, data) == []

    assert hits == [0, 1]
