"""Each part that follows a stranger's word, on its way to a trap on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.web.trap import open_trap, redirect

from fabstir.chain.rpc import open_chain
from fabstir.crypto import NATIVE
from fabstir.models.download import Patience, download
from fabstir.models.download import open_client as open_model_client
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    ModelDownloadFailed,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    RpcUnavailable,
)
from fabstir.primitives.ids import ChainId
from fabstir.s5.peers.connection import dial
from fabstir.s5.portals import open_client
from fabstir.s5.transfer.fetch import BlobSource, read_whole
from fabstir.web.reach import STRANGERS, Reach

pytestmark = pytest.mark.anyio

BLOB = BlobId(NATIVE.blake3(b"ok"), 2)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1"])
async def test_a_storage_location_of_a_stranger(host: str) -> None:
    async with open_trap() as trap, open_client() as client:
        source = BlobSource.location(f"http://{host}:{trap.port}/admin/reboot")
        with pytest.raises(PortalRefused, match=r"network\.allow_private"):
            await read_whole(BLOB, source, client=client, crypto=NATIVE)

        assert trap.num_connections == 0

    async with open_trap() as trap, open_client(Reach(allow_private=True)) as client:
        source = BlobSource.location(f"http://{host}:{trap.port}/blob")
        assert await read_whole(BLOB, source, client=client, crypto=NATIVE) == b"ok"


async def test_a_redirect_of_a_portal_of_the_settings() -> None:
    async with open_trap() as trap, open_client() as client:
        leads = redirect(f"http://localhost:{trap.port}/admin/reboot")
        async with open_trap(leads) as portal:
            source = BlobSource.portal(portal.url, BLOB)
            with pytest.raises(PortalLied, match="redirects to where it must not"):
                await read_whole(BLOB, source, client=client, crypto=NATIVE)

        assert trap.num_connections == 0


async def test_a_peer_that_another_one_names() -> None:
    async with open_trap() as trap:
        with pytest.raises(PortalUnavailable, match="it is not dialled"):
            async with dial(f"ws://localhost:{trap.port}/s5/p2p", 5, STRANGERS):
                pass

    assert trap.num_connections == 0


async def test_a_redirect_of_the_chains_endpoint() -> None:
    async with open_trap() as trap:
        async with open_trap(redirect(f"{trap.url}/admin/reboot", 307)) as endpoint:
            with pytest.raises(RpcUnavailable, match="redirects"):
                async with open_chain(endpoint.url, chain_id=ChainId(31337), retry_delays=()):
                    pass

        assert endpoint.num_connections == 1
        assert trap.num_connections == 0


async def test_a_redirect_of_a_models_public_source(tmp_path: Path) -> None:
    """The source listens here, but is named and resolved as a public one would be."""

    async def resolve(host: str, _port: int) -> list[str]:
        return ["8.8.8.8"] if host == "localhost" else [host]

    async with open_trap() as trap:
        leads = redirect(f"http://127.0.0.1:{trap.port}/admin/reboot")
        async with open_trap(leads) as source:
            url = f"http://localhost:{source.port}/model.gguf"
            async with open_model_client(url, Reach(resolve=resolve)) as client:
                with pytest.raises(ModelDownloadFailed, match="redirects to where it must not"):
                    await download(
                        client,
                        url,
                        tmp_path / "part",
                        content=None,
                        size_bytes=None,
                        patience=Patience(),
                    )

        assert source.num_connections == 1
        assert trap.num_connections == 0
