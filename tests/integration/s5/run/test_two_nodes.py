"""Two whole nodes in this process: they find each other's blobs, and keep each other's copies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from tests.integration.s5.run.conftest import eventually, free_port, s5_settings

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ConfigError, NotFound, PortalError
from fabstir.s5.identities.identity import import_identity
from fabstir.s5.run.build import S5Running, open_s5
from fabstir.s5.run.parts import S5, open_s5_parts, s5_control_path
from fabstir.s5.tables.pins import CACHED
from fabstir.s5.tables.replicas import Replica, ReplicaState
from fabstir.telemetry.metrics import MetricsRegistry
from fabstir.web.control import ask

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CONTENT = b"what must not be lost"


@asynccontextmanager
async def running(folder: Path, **overrides: str) -> AsyncGenerator[S5Running]:
    async with open_s5(s5_settings(folder, **overrides), MetricsRegistry()) as node:
        yield node


@pytest.fixture
async def other(tmp_path: Path) -> AsyncGenerator[S5Running]:
    async with running(tmp_path / "other") as node:
        yield node


async def copies(node: S5, blob: BlobId) -> Sequence[Replica]:
    """Copies elsewhere that have arrived; never an empty list as an answer."""
    found = await node.replication.where(blob)
    return [copy for copy in found if copy.state is ReplicaState.STORED]


async def test_a_blob_is_found_at_a_peer_and_kept(other: S5Running, tmp_path: Path) -> None:
    blob = await other.parts.node.blobs("them").put(CONTENT, reason="test")

    async with running(tmp_path / "ours", peers=other.p2p_uri) as ours:
        await ours.parts.peers.wait_connected()
        data = await ours.parts.node.get(blob.multihash, max_bytes=100)

        assert data == CONTENT
        assert await ours.parts.store.size(blob.multihash) == len(CONTENT)
        with pytest.raises(NotFound):
            await ours.parts.node.get(BlobId(bytes(32), 1).multihash, max_bytes=100)


async def test_a_large_blob_comes_from_a_peer_in_verified_groups(
    other: S5Running, tmp_path: Path
) -> None:
    content = bytes(range(251)) * 40_000
    blob = await other.parts.node.blobs("them").put(content, reason="test")

    async with running(tmp_path / "ours", peers=other.p2p_uri) as ours:
        await ours.parts.peers.wait_connected()
        tail = b"".join([piece async for piece in ours.parts.node.read(blob, len(content) - 10)])

        assert tail == content[-10:]
        assert await ours.parts.store.size(blob.multihash) == len(content)
        assert not list((ours.parts.folder / "fetch").iterdir())


async def test_files_have_a_copy_elsewhere_and_a_new_machine_reads_them_from_there(
    other: S5Running, tmp_path: Path
) -> None:
    async with running(tmp_path / "ours", portals=other.url, replicas="2") as ours:
        info = await ours.parts.files.put("notes/a.txt", CONTENT)
        await eventually(lambda: copies(ours.parts, BlobId.decode(info.cid)))

        async def is_complete() -> bool:
            return await ours.parts.replication.num_missing() == 0

        await eventually(is_complete)
        identity = ours.parts.settings.s5.identity
        await eventually(lambda: published(other, ours))

    fresh = s5_settings(tmp_path / "fresh", portals=other.url, identity=str(identity))
    async with open_s5_parts(fresh) as new_machine:
        assert await new_machine.files.get("notes/a.txt", 100) == CONTENT


async def published(other: S5Running, ours: S5Running) -> bool:
    """Whether the other node has our root's newest entry."""
    key = ours.parts.identity.file_system_root().public_key
    theirs, mine = await other.parts.registry.get(key), await ours.parts.registry.get(key)
    return theirs is not None and theirs == mine


async def test_what_only_a_cache_pins_gets_no_copies(other: S5Running, tmp_path: Path) -> None:
    async with running(tmp_path / "ours", portals=other.url, replicas="2") as ours:
        results, files = ours.parts.node.blobs("results"), ours.parts.node.blobs("me")
        cached = await results.put(b"may be lost", reason=CACHED)
        also_kept = await results.put(b"in a cache, and in a file", reason=CACHED)
        await files.put(b"in a cache, and in a file", reason="file")
        await eventually(lambda: copies(ours.parts, also_kept))
        last = await files.put(CONTENT, reason="file")
        await eventually(lambda: copies(ours.parts, last))

        assert await ours.parts.replication.where(cached) == []
        assert await ours.parts.replication.num_missing() == 0


async def test_a_lost_copy_is_noticed_and_made_again_and_an_unwanted_one_is_taken_back(
    other: S5Running, tmp_path: Path
) -> None:
    async with running(tmp_path / "ours", portals=other.url, replicas="2") as ours:
        blob = await ours.parts.node.blobs("me").put(CONTENT, reason="test")
        await eventually(lambda: copies(ours.parts, blob))
        (account,) = [name async for name, _ in other.parts.store.owners()]
        await other.parts.store.unpin(account, [blob.multihash])
        await other.parts.store.collect(grace_seconds=0)

        async def is_back() -> bool:
            return await other.parts.store.size(blob.multihash) is not None

        assert not await is_back()
        await eventually(is_back)
        await ours.parts.store.unpin("me", [blob.multihash])

        async def is_released() -> bool:
            pinned = {pin.blob async for pin in other.parts.store.pins(account)}
            return blob not in pinned and not await ours.parts.replication.where(blob)

        await eventually(is_released)
        assert account.startswith("account:")


async def test_what_a_portal_missed_while_it_was_away_arrives_when_it_is_back(
    tmp_path: Path,
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with (
        running(tmp_path / "other", port=str(port)),
        running(tmp_path / "ours", portals=url, replicas="2") as ours,
    ):
        first = await ours.parts.node.blobs("me").put(b"first", reason="test")
        await eventually(lambda: copies(ours.parts, first))
    async with running(tmp_path / "ours", portals=url, replicas="2") as ours:
        blob = await ours.parts.node.blobs("me").put(CONTENT, reason="test")

        async def has_failed() -> bool:
            return any(item.attempts for item in await ours.parts.uploads.pending())

        await eventually(has_failed)
        assert not await copies(ours.parts, blob)
    async with (
        running(tmp_path / "other", port=str(port)) as other,
        running(tmp_path / "ours", portals=url, replicas="2") as ours,
    ):
        await eventually(lambda: copies(ours.parts, blob))

        assert await other.parts.store.size(blob.multihash) == len(CONTENT)


async def test_files_are_written_while_every_portal_is_away(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"

    async with running(tmp_path / "ours", portals=away, replicas="2") as ours:
        await ours.parts.files.put("new/b", CONTENT)

        assert await ours.parts.files.get("new/b", 100) == CONTENT
        assert await ours.parts.replication.num_missing() > 0


async def test_an_identity_that_came_from_elsewhere_does_not_begin_anew_while_portals_are_away(
    tmp_path: Path,
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    import_identity(tmp_path / "theirs.identity", "07" * 16, NATIVE)
    identity = str(tmp_path / "theirs.identity")

    async with running(tmp_path / "ours", portals=away, identity=identity) as ours:
        with pytest.raises(PortalError, match="not on this machine yet"):
            await ours.parts.files.put("a", CONTENT)
    async with running(tmp_path / "ours", identity=identity) as ours:
        await ours.parts.files.put("a", CONTENT)
    async with running(tmp_path / "ours", portals=away, identity=identity) as ours:
        await ours.parts.files.put("new/b", CONTENT)

        assert await ours.parts.files.get("a", 100) == CONTENT


async def test_the_machines_of_one_identity_are_each_others_peers(
    other: S5Running, tmp_path: Path
) -> None:
    identity = str(other.parts.settings.s5.identity)
    await other.parts.files.put("from the other.txt", CONTENT)

    async with running(tmp_path / "ours", peers=other.p2p_uri, identity=identity) as ours:
        with anyio.fail_after(20):
            await ours.parts.peers.wait_connected()
        assert await ours.parts.files.get("from the other.txt", 100) == CONTENT
        await ours.parts.files.put("from this one.txt", b"more")
        assert {info.path async for info in other.parts.files.walk("")} == {
            "from the other.txt",
            "from this one.txt",
        }

    first = ours.parts.node_key
    async with running(tmp_path / "ours", identity=identity) as again:
        assert again.parts.node_key == first


async def test_a_taken_port_and_a_taken_folder_are_settings_to_change(
    other: S5Running, tmp_path: Path
) -> None:
    port = other.local_url.rpartition(":")[2]

    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*set s5\.port to another"):
        async with running(tmp_path / "ours", port=port):
            pass
    with pytest.raises(ConfigError, match="in use by process"):
        async with running(tmp_path / "other"):
            pass


async def test_doors_health_metrics_and_socket_are_there(other: S5Running) -> None:
    socket = s5_control_path(other.parts.settings)
    async with httpx.AsyncClient(base_url=other.local_url) as client:
        health = (await client.get("/s5/health")).json()
        version = (await client.get("/s5/version")).json()
        refused = await client.put("/s5/fs/a.txt", content=b"x")
        token = await anyio.Path(other.token_file).read_text()
        headers = {"Authorization": f"Bearer {token.strip()}"}
        written = await client.put("/s5/fs/a.txt", content=CONTENT, headers=headers)
        read = await client.get("/s5/fs/a.txt", headers=headers)

    assert health["status"] in {"healthy", "degraded"}
    assert version["node"].startswith("fabstir/")
    assert (refused.status_code, written.status_code, read.content) == (401, 201, CONTENT)
    assert await ask(socket, "door") == {"url": other.local_url}
    assert (await ask(socket, "find", {"target": "a.txt"}))["size"] == len(CONTENT)
