"""The database takes nothing more: the node lives on, and goes on when there is room."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.s5.run.conftest import eventually, s5_settings

from fabstir.db import Database
from fabstir.primitives.errors import StorageFull
from fabstir.s5.run.build import S5Running, open_s5
from fabstir.s5.tables.replicas import Replica, ReplicaState
from fabstir.telemetry.metrics import MetricsRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@asynccontextmanager
async def running(folder: Path, **overrides: str) -> AsyncGenerator[S5Running]:
    async with open_s5(s5_settings(folder, **overrides), MetricsRegistry()) as node:
        yield node


async def test_a_node_lives_on_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of every write, because no real disk fails at the same moments each time."""
    num_refused, write = 0, Database.write

    async def refuse(db: Database, fn: Callable[..., Any], *, durable: bool) -> Any:
        nonlocal num_refused
        if Path(db.place).is_relative_to(tmp_path / "other"):
            return await write(db, fn, durable=durable)
        num_refused += 1
        raise StorageFull("there is no room")

    async with (
        running(tmp_path / "other") as other,
        running(tmp_path / "ours", portals=other.local_url, replicas="2") as ours,
    ):
        blobs, replication = ours.parts.node.blobs("us"), ours.parts.replication
        first = await blobs.put(b"first", reason="test")
        replication.wake()

        async def copied() -> Sequence[Replica]:
            copies = await replication.where(first)
            return [copy for copy in copies if copy.state is ReplicaState.STORED]

        await eventually(copied)
        second = await blobs.put(b"second", reason="test")
        with monkeypatch.context() as patch:
            patch.setattr(Database, "write", refuse)
            replication.wake()

            async def has_tried() -> bool:
                return num_refused > 10

            await eventually(has_tried)
            with pytest.raises(StorageFull):
                await blobs.put(b"third", reason="test")
            async with httpx.AsyncClient(base_url=ours.local_url, trust_env=False) as client:
                answer = await client.get(f"/s5/blob/{first.encode('z')}")
            assert answer.content == b"first"
        first = second
        replication.wake()

        await eventually(copied)
