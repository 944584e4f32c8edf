"""What others find through a node that has it not: over HTTP, as S5's clients ask."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from tests.integration.s5.run.conftest import s5_settings

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.s5.run.build import S5Running, open_s5
from fabstir.telemetry.metrics import MetricsRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CONTENT = b"written at another node"
SOON = 20.0


@asynccontextmanager
async def running(folder: Path, **overrides: str) -> AsyncGenerator[S5Running]:
    async with open_s5(s5_settings(folder, **overrides), MetricsRegistry()) as node:
        yield node


@asynccontextmanager
async def pair(folder: Path) -> AsyncGenerator[tuple[S5Running, S5Running, httpx.AsyncClient]]:
    """A node, one that dials it, and a client of the first."""
    async with (
        running(folder / "asked") as asked,
        running(folder / "owner", peers=asked.p2p_uri) as owner,
        httpx.AsyncClient(base_url=asked.local_url, follow_redirects=True) as client,
    ):
        with anyio.fail_after(SOON):
            await owner.parts.peers.wait_connected()
            await asked.parts.peers.wait_connected()
        yield asked, owner, client


async def test_a_blob_is_at_the_end_of_a_redirect(tmp_path: Path) -> None:
    async with pair(tmp_path) as (asked, owner, client):
        blob = await owner.parts.node.blobs("them").put(CONTENT, reason="test")
        # S5.js does not know the size, and says 0.
        path = f"/s5/blob/{BlobId(blob.digest, 0).encode('z')}"

        redirect = await client.get(path, follow_redirects=False)
        answer = await client.get(path)
        head = await client.head(path)
        tree = await client.get(f"{path}.obao", follow_redirects=False)
        here = await client.get(path, headers={"Cache-Control": "only-if-cached"})
        assert await asked.parts.store.size(blob.multihash) is None

    assert redirect.status_code == 307
    assert redirect.headers["location"].startswith(owner.local_url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
    assert tree.headers["location"].endswith(".obao")
    assert here.status_code == 404


async def test_a_location_that_gives_nothing_any_more_is_not_redirected_to(tmp_path: Path) -> None:
    """Two nodes that each remember the other would send a client to and fro."""
    async with pair(tmp_path) as (asked, owner, client):
        blob = await owner.parts.node.blobs("them").put(CONTENT, reason="test")
        path = f"/s5/blob/{blob.encode('z')}"
        assert (await client.get(path)).status_code == 200
        await owner.parts.store.unpin("them", [blob.multihash])
        await owner.parts.store.collect(grace_seconds=0)

        assert (await client.get(path)).status_code == 404
        assert (await client.get(f"{owner.local_url}{path}")).status_code == 404
        assert await asked.parts.peers.find(blob.multihash) == []


async def test_entries_and_files_of_one_who_dialled_in_are_found(tmp_path: Path) -> None:
    async with pair(tmp_path) as (_asked, owner, client):
        info = await owner.parts.files.put("notes/a.txt", CONTENT)
        key = owner.parts.identity.file_system_root().public_key
        entry = await owner.parts.registry.local.get(key)
        assert entry is not None

        with anyio.fail_after(SOON):
            answer = await client.get("/s5/registry", params={"pk": _b64(b"\xed" + key)})
            root = await client.get(f"/s5/blob/{BlobId(entry.data[1:], 0).encode('z')}")
            file = await client.get(f"/s5/download/{info.cid}")

    assert answer.json()["revision"] == entry.revision
    assert root.status_code == 200
    assert NATIVE.blake3(file.content) == BlobId.decode(info.cid).digest


async def test_without_peers_what_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as node,
        httpx.AsyncClient(base_url=node.local_url) as client,
    ):
        entry = await client.get("/s5/registry", params={"pk": _b64(b"\xed" + bytes(32))})
        blob = await client.get(f"/s5/blob/{BlobId(bytes(32), 0).encode('z')}")

    assert (entry.status_code, blob.status_code) == (404, 404)


@pytest.mark.parametrize("num_uploads", [60, pytest.param(200, marks=pytest.mark.heavy)])
async def test_many_uploads_of_one_client_at_once_are_all_taken(
    tmp_path: Path, num_uploads: int
) -> None:
    """S5.js opens a connection for each, and gives a file up at the first refusal."""
    statuses: list[int] = []
    async with running(tmp_path) as node:
        token = (await anyio.Path(node.token_file).read_text()).strip()
        async with (
            httpx.AsyncClient(
                base_url=node.local_url,
                headers={"Authorization": f"Bearer {token}"},
                limits=httpx.Limits(max_connections=None),
                timeout=60,
            ) as client,
            anyio.create_task_group() as tasks,
        ):

            async def upload(number: int) -> None:
                answer = await client.post("/s5/upload", content=b"%d" % number * 1000)
                statuses.append(answer.status_code)

            for number in range(num_uploads):
                tasks.start_soon(upload, number)

    assert statuses == [200] * num_uploads


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
