"""Nodes that find each other's blobs and pass registry entries on."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.peers.nodes import QUICK, Node, open_node
from tests.integration.s5.peers.raw_peer import dial_raw

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import BlobTooLarge, ConfigError, NotFound, PortalUnavailable
from fabstir.s5.formats.registry import SignedEntry, sign_entry
from fabstir.s5.peers.connection import dial

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SOON = 10.0
OWNER = b"\x09" * 32


def entry(revision: int, data: bytes = b"data") -> SignedEntry:
    return sign_entry(OWNER, revision, data, NATIVE)


async def connected(*nodes: Node, num_peers: int = 1) -> None:
    with anyio.fail_after(SOON):
        for node in nodes:
            await node.peers.wait_connected(num_peers)


async def eventually_has(node: Node, wanted: SignedEntry) -> None:
    """Entries come without being announced, so there is nothing to wait for but the table."""
    with anyio.fail_after(SOON):
        while await node.registry.get(wanted.public_key) != wanted:
            await anyio.lowlevel.checkpoint()


async def test_two_nodes_fetch_each_others_blobs(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a, open_node(tmp_path / "b", 2, [a.url]) as b:
        await connected(a, b)
        of_a, of_b = await a.put(b"of a" * 1000), await b.put(b"of b")

        assert await b.peers.get(of_a, max_bytes=4000) == b"of a" * 1000
        assert await a.peers.get(of_b, max_bytes=4000) == b"of b"
        (location,) = await b.peers.find(of_a)

    assert location.hash == of_a
    assert location.parts[0].startswith(f"http://127.0.0.1:{a.port}/")


async def test_what_nobody_has_is_said_at_once(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a, open_node(tmp_path / "b", 2, [a.url]) as b:
        await connected(a, b)

        with anyio.fail_after(SOON):  # the deadline for answers is twice as long
            with pytest.raises(NotFound):
                await b.peers.get(Multihash(b"\x07" * 32), max_bytes=10)
            assert await b.peers.find(Multihash(b"\x07" * 32)) == []
            assert await b.peers.registry.get(b"\x07" * 32) is None


async def test_a_blob_beyond_the_limit_is_not_returned(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a, open_node(tmp_path / "b", 2, [a.url]) as b:
        await connected(b)
        blob = await a.put(bytes(1000))

        with pytest.raises(BlobTooLarge):
            await b.peers.get(blob, max_bytes=999)


async def test_a_location_that_broke_is_asked_for_anew(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a, open_node(tmp_path / "b", 2, [a.url]) as b:
        await connected(b)
        blob = await a.put(b"x")
        (old,) = await b.peers.find(blob)

        b.peers.report_unreachable(old)

        assert len(await b.peers.find(blob)) == 1
        assert await b.peers.get(blob, max_bytes=1) == b"x"


async def test_without_peers_nothing_is_said_to_be_missing(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a:
        with pytest.raises(PortalUnavailable, match="none is connected"):
            await a.peers.get(Multihash(b"\x07" * 32), max_bytes=10)
        with pytest.raises(PortalUnavailable, match="none is connected"):
            await a.peers.registry.get(b"\x07" * 32)
        with pytest.raises(PortalUnavailable, match="none takes"):
            await a.peers.registry.set(entry(1))


async def test_entries_are_passed_on_to_peers_of_peers(tmp_path: Path) -> None:
    limits = replace(QUICK, max_discovered=0)
    async with (
        open_node(tmp_path / "a", 1, limits=limits) as a,
        open_node(tmp_path / "b", 2, [a.url], limits=limits) as b,
        open_node(tmp_path / "c", 3, [b.url], limits=limits) as c,
    ):
        await connected(a, c)
        await connected(b, num_peers=2)

        await a.registry.set(entry(1))
        await a.peers.registry.set(entry(1))
        await eventually_has(b, entry(1))
        await eventually_has(c, entry(1))
        await c.registry.set(entry(2))
        c.peers.broadcast(entry(2))
        await eventually_has(a, entry(2))


async def test_the_newest_entry_is_found_and_an_old_one_answered(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a, open_node(tmp_path / "b", 2, [a.url]) as b:
        await connected(a, b)
        await a.registry.set(entry(7))

        assert await b.peers.registry.get(entry(7).public_key) == entry(7)
        b.peers.broadcast(entry(3))
        await eventually_has(b, entry(7))
        assert await a.registry.get(entry(7).public_key) == entry(7)


async def test_of_two_entries_of_one_revision_the_first_stays_and_both_are_evidence(
    tmp_path: Path,
) -> None:
    async with open_node(tmp_path / "a", 1) as a, open_node(tmp_path / "b", 2, [a.url]) as b:
        await connected(a, b)
        first, second = entry(5, b"first"), entry(5, b"second")
        await a.registry.set(first)

        b.peers.broadcast(second)
        with anyio.fail_after(SOON):
            while not (forks := await a.registry.forks(first.public_key)):
                await anyio.lowlevel.checkpoint()

        assert {fork.data for fork in forks} == {b"first", b"second"}
        assert await a.registry.get(first.public_key) == first


@pytest.mark.parametrize("num_keys", [80, pytest.param(400, marks=pytest.mark.heavy)])
async def test_many_new_keys_at_once_all_arrive(tmp_path: Path, num_keys: int) -> None:
    """Peers read each other at their own pace; what waits is told, in the end, all of it."""
    limits = replace(QUICK, outbox_frames=16, frames_per_second=5000.0)
    entries = [
        sign_entry(number.to_bytes(32), 1, b"data", NATIVE) for number in range(1, num_keys + 1)
    ]
    async with (
        open_node(tmp_path / "a", 1, limits=limits) as a,
        open_node(tmp_path / "b", 2, [a.url], limits=limits) as b,
        open_node(tmp_path / "c", 3, [a.url], limits=limits) as c,
    ):
        await connected(b, c)

        for one in entries:
            b.peers.broadcast(one)

        for one in entries:
            await eventually_has(a, one)
            await eventually_has(c, one)


async def test_a_stranger_that_brings_more_keys_is_read_more_slowly(tmp_path: Path) -> None:
    limits = replace(QUICK, burst_new_keys=2, new_keys_per_second=20.0)
    entries = [sign_entry(bytes([i]) * 32, 1, b"", NATIVE) for i in range(1, 9)]
    async with (
        open_node(tmp_path / "a", 1, limits=limits) as a,
        open_node(tmp_path / "b", 2, [a.url]) as b,
    ):
        await connected(a, b)
        began = anyio.current_time()

        for one in entries:
            b.peers.broadcast(one)
        for one in entries:
            await eventually_has(a, one)

    assert anyio.current_time() - began > 0.2


async def test_an_entry_that_is_not_kept_is_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [sign_entry(bytes([i]) * 32, 1, b"", NATIVE) for i in range(1, 4)]
    async with (
        open_node(tmp_path / "a", 1, max_entries=2) as a,
        open_node(tmp_path / "b", 2, [a.url]) as b,
    ):
        await connected(a, b)
        for one in entries:
            b.peers.broadcast(one)
        with anyio.fail_after(SOON):
            while not (said := [r for r in caplog.records if "does not keep" in r.message]):
                await anyio.sleep(0.01)

    assert vars(said[0])["key"] == entries[2].public_key.hex()
    assert "2" in vars(said[0])["reason"]


async def test_a_peer_that_comes_back_is_found_again(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a:
        port, url = a.port, a.url
        async with open_node(tmp_path / "b", 2, [url]) as b:
            await connected(a, b)
    async with open_node(tmp_path / "b", 2, [url]) as b:
        assert [status.node_id for status in b.peers.status()] == [None]
        async with open_node(tmp_path / "a", 1, port=port) as a:
            await connected(a, b)
            blob = await a.put(b"again")

            assert await b.peers.get(blob, max_bytes=10) == b"again"
            (status,) = b.peers.status()

    assert status.url == url
    assert status.node_id == a.peers.node_id
    assert not status.is_inbound


async def test_a_peer_is_held_to_the_id_in_its_url(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a, open_node(tmp_path / "c", 3) as other:
        right = a.url.replace("ws://", f"ws://{a.peers.node_id}@")
        wrong = a.url.replace("ws://", f"ws://{other.peers.node_id}@")
        async with open_node(tmp_path / "b", 2, [wrong]) as b:
            await refused(b)
            assert not b.peers.network.sessions
        async with open_node(tmp_path / "b", 2, [right]) as b:
            await connected(b)


async def refused(node: Node) -> None:
    """Wait until the node has dropped the only peer that it dials."""
    with anyio.fail_after(SOON):
        while not node.peers.status()[0].seconds_avoided:
            await anyio.lowlevel.checkpoint()


async def test_networks_do_not_mix(tmp_path: Path) -> None:
    async with (
        open_node(tmp_path / "a", 1, network="test") as a,
        open_node(tmp_path / "b", 2, [a.url]) as b,
        open_node(tmp_path / "c", 3, [a.url], network="test") as c,
    ):
        await connected(c)
        await refused(b)

        assert not b.peers.network.sessions


async def test_a_node_is_not_its_own_peer(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1) as a, open_node(tmp_path / "b", 1, [a.url]) as same:
        await refused(same)

        assert not same.peers.network.sessions


async def test_peers_of_peers_are_dialled_and_must_prove_their_key(tmp_path: Path) -> None:
    async with (
        open_node(tmp_path / "a", 1) as a,
        open_node(tmp_path / "b", 2, [a.url]) as b,
    ):
        await connected(a, b)
        async with open_node(tmp_path / "c", 3, [a.url]) as c:
            with anyio.fail_after(SOON):
                await c.peers.wait_connected(2)
            ids = {status.node_id for status in c.peers.status()}

    assert ids == {a.peers.node_id, b.peers.node_id}


async def test_an_idle_peer_gives_way_to_another_one(tmp_path: Path) -> None:
    limits = replace(QUICK, max_inbound=2, max_discovered=0)
    async with (
        open_node(tmp_path / "a", 1, limits=limits) as a,
        dial_raw(a.url) as silent,
        dial_raw(a.url) as idle,
        open_node(tmp_path / "b", 2, [a.url]) as b,
    ):
        await silent.challenge()
        await connected(b)  # in the place of the silent one
        with anyio.fail_after(SOON):
            assert await silent.receive() is None
        async with open_node(tmp_path / "c", 3, [a.url]) as c:
            await connected(c)  # in the place of the idle one
            with anyio.fail_after(SOON):
                await idle.challenge()
                assert await idle.receive() is None
            blob = await b.put(b"still there")
            assert await c.peers.get(blob, max_bytes=100) == b"still there"


async def test_where_all_are_busy_the_next_one_is_told_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="fabstir")
    limits = replace(QUICK, max_inbound_per_address=1, max_discovered=0)
    async with (
        open_node(tmp_path / "a", 1, limits=limits) as a,
        open_node(tmp_path / "b", 2, [a.url]) as b,
    ):
        await connected(a, b)
        assert await b.peers.registry.get(b"\x07" * 32) is None
        async with open_node(tmp_path / "c", 3, [a.url]) as c:
            with anyio.fail_after(SOON):
                while not any("busy" in str(vars(r).get("reason")) for r in caplog.records):
                    await anyio.sleep(0.01)

            assert not c.peers.network.sessions
        assert len(a.peers.network.sessions) == 1


async def test_sixty_four_idle_peers_shut_out_nobody(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(open_node(tmp_path / "a", 1))
        for _ in range(64):
            peer = await stack.enter_async_context(dial_raw(a.url))
            await peer.challenge()

        b = await stack.enter_async_context(open_node(tmp_path / "b", 2, [a.url]))
        await connected(b)


async def test_a_url_that_is_none_is_said_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no peer of S5"):
        async with open_node(tmp_path / "a", 1, ["http://127.0.0.1:1/"]):
            pytest.fail("it started")


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "*", "127.0.0.1:1"])
async def test_a_host_that_no_resolver_can_write_is_only_unreachable(host: str) -> None:
    with pytest.raises(PortalUnavailable, match="cannot be dialled"):
        async with dial(f"ws://{host}/s5/p2p", SOON):
            pytest.fail("it was dialled")
