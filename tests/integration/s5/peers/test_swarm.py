"""A large blob from the locations that peers name, of which some lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.peers.liar import Liar, Lie, open_liar
from tests.integration.s5.peers.nodes import QUICK, open_node
from tests.integration.s5.transfer.server import Conduct, Sample, noise, open_server

from fabstir.crypto import NATIVE
from fabstir.s5.formats.wire import HashQuery
from fabstir.s5.portals import PortalPool, open_client
from fabstir.s5.transfer.swarm import LARGE_BYTES, Swarm
from fabstir.web.reach import Reach

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SAMPLE = Sample.of(noise(4 * LARGE_BYTES))
"""Four runs of groups: both places begin with two."""
HONEST, DISHONEST = b"\x21" * 32, b"\x22" * 32


def naming(url: str) -> Lie:
    """A peer that says the blob is at a URL."""

    def answer(peer: Liar, query: HashQuery) -> bytes:
        return peer.location(query, url=url).encode()

    return answer


async def test_a_liar_is_not_mistaken_for_the_honest_one_at_its_origin(tmp_path: Path) -> None:
    async with (
        open_server(SAMPLE, Conduct(lies_at=frozenset({"/liar"}))) as server,
        open_liar(naming(f"{server.url}/blobs/one"), key=HONEST) as honest,
        open_liar(naming(f"{server.url}/liar"), key=DISHONEST) as liar,
        open_node(
            tmp_path / "node", 3, [honest.url, liar.url], limits=replace(QUICK, settle=20.0)
        ) as asker,
        open_client(Reach(allow_private=True)) as client,
    ):
        pool = PortalPool([], NATIVE, spool_folder=tmp_path)
        swarm = Swarm(asker.peers, pool, client, tmp_path / "fetch")
        with anyio.fail_after(30):
            await asker.peers.wait_connected(2)
            file = await swarm.fetch(SAMPLE.blob)
            left = await asker.peers.find(SAMPLE.blob.multihash)

    assert file is not None
    assert file.read_bytes() == SAMPLE.data
    assert [location.public_key for location in left] == [NATIVE.ed25519_public_key(HONEST)]
