"""A node reads its whole store again and again, and says how far it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.run.conftest import eventually, s5_settings

from fabstir.s5.run.build import S5Running, open_s5
from fabstir.s5.run.health import keep_gauges
from fabstir.s5.run.metrics import S5Metrics
from fabstir.s5.run.scrub import keep_scrubbed, scrub_progress
from fabstir.s5.store import BlobStore, ScrubRound
from fabstir.s5.store import scrub as scrub_module
from fabstir.telemetry.metrics import MetricsRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BLOB_BYTES = 200_000
NUM_BLOBS = 4


@asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[S5Running]:
    async with open_s5(s5_settings(folder), MetricsRegistry()) as node:
        yield node


@asynccontextmanager
async def scrubbing(store: BlobStore, *, rate: float, rest: float = 3600) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: keep_scrubbed(store, rest=rest, pause=0, max_bytes_per_second=rate)
        )
        yield
        tasks.cancel_scope.cancel()


async def test_a_round_ends_although_the_node_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_REPORT_BYTES", BLOB_BYTES)

    async with running(tmp_path) as node:
        store = node.parts.store
        for number in range(NUM_BLOBS):
            await store.put(bytes([number]) * BLOB_BYTES, owner="a", reason="test")
        assert (await scrub_progress(store)).fraction == 0

        async def begun() -> ScrubRound | None:
            current = await store.scrubbed()
            return current if current.num_blobs else None

        async with scrubbing(store, rate=10 * BLOB_BYTES):
            first = await eventually(begun)
        part = await node.health.report()

    async with running(tmp_path) as node:
        store = node.parts.store
        rotten = next((node.parts.folder / "blobs").rglob("*.*"))
        rotten.write_bytes(bytes(BLOB_BYTES - 1) + b"!")

        async def finished() -> ScrubRound | None:
            current = await store.scrubbed()
            return current if current.finished_at is not None else None

        async with scrubbing(store, rate=1e12):
            whole = await eventually(finished)
        registry = MetricsRegistry()
        metrics = S5Metrics.of(registry)
        async with scrubbing(store, rate=1e12, rest=0), anyio.create_task_group() as tasks:

            async def found() -> bool:
                return await store.num_damaged() > 0

            await eventually(found)
            tasks.start_soon(keep_gauges, node.parts, metrics)

            async def shown() -> bool:
                await anyio.lowlevel.checkpoint()
                return registry.collector.get_sample_value("fabstir_s5_damaged_blobs") == 1

            await eventually(shown)
            tasks.cancel_scope.cancel()
        health = await node.health.report()

    assert isinstance(part, dict)
    assert isinstance(part["scrub"], dict)
    assert part["scrub"]["finished_at"] is None
    assert 0 < float(str(part["scrub"]["progress"])) < 1
    assert whole.started_at == first.started_at
    assert (whole.num_blobs, whole.num_bytes) == (NUM_BLOBS, NUM_BLOBS * BLOB_BYTES)
    assert isinstance(health, dict)
    assert health["status"] == "degraded"
    assert "1 blobs are damaged and never served" in str(health["issues"])
    assert isinstance(health["scrub"], dict)
    assert health["scrub"]["finished_at"] is not None
