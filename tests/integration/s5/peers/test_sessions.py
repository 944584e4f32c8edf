"""What a node does on one connection, frame by frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.peers.liar import open_liar, wrong_bytes
from tests.integration.s5.peers.nodes import QUICK, Accepted, listening_socket, open_node
from tests.integration.s5.peers.raw_peer import RawPeer, dial_raw, done
from tests.s5_streams import sign_stream_message
from websockets.asyncio.server import ServerConnection, serve

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import HashType, Multihash
from fabstir.primitives.errors import StorageError, StorageFull
from fabstir.s5.formats.registry import SignedEntry, sign_entry
from fabstir.s5.formats.wire import (
    Absent,
    AnnouncePeers,
    HashQuery,
    LocationType,
    PeerHandshake,
    PeerInfo,
    RegistryQuery,
    StorageLocation,
    StreamQuery,
    sign_location,
    sign_message,
)
from fabstir.s5.peers import Offer, open_peers
from fabstir.web.reach import STRANGERS

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SOON = 10.0
OPENING = PeerHandshake(challenge=b"\x01" * 64).encode()
MISSING = Multihash(b"\x07" * 32)


def query(blob: Multihash, *types: int, legacy: bool = False) -> HashQuery:
    return HashQuery(hash=blob, types=types, legacy=legacy)


async def test_a_question_is_answered_in_the_askers_own_words(tmp_path: Path) -> None:
    async with open_node(tmp_path, 1) as node, dial_raw(node.url) as peer:
        blob = await node.put(b"data")
        await peer.shake_hands()
        with anyio.fail_after(SOON):
            await peer.send(query(blob, 3, 5, legacy=True).encode())
            location = await peer.receive()

    assert isinstance(location, StorageLocation)
    assert location.hash == blob
    assert location.legacy
    assert location.public_key == NATIVE.ed25519_public_key(b"\x01" * 32)


async def test_who_knows_no_absence_is_told_of_none(tmp_path: Path) -> None:
    """S5.js waits for locations; what it asks next is answered, so nothing came between."""
    async with open_node(tmp_path, 1) as node, dial_raw(node.url) as peer:
        blob = await node.put(b"data")
        await peer.shake_hands()
        unusable = query(blob, LocationType.ARCHIVE)
        await peer.send(
            query(MISSING, 3).encode(),
            unusable.encode(),
            RegistryQuery(public_key=b"\x07" * 32).encode(),
            StreamQuery(public_key=b"\x07" * 32).encode(),
            sign_stream_message(b"\x07" * 32, 1, b"").encode(),
            Absent(subject=bytes(33)).encode(),
            b"\x63",
            query(blob, 3).encode(),
        )
        with anyio.fail_after(SOON):
            answer = await peer.receive()

    assert isinstance(answer, StorageLocation)


async def test_who_knows_it_is_told(tmp_path: Path) -> None:
    async with open_node(tmp_path, 1) as node, dial_raw(node.url) as peer:
        await peer.send(OPENING, done(await peer.challenge(), extensions=1))
        await peer.receive()
        await peer.receive()
        with anyio.fail_after(SOON):
            await peer.send(query(MISSING, 3, legacy=True).encode())
            of_blob = await peer.receive()
            await peer.send(RegistryQuery(public_key=b"\x07" * 32).encode())
            of_key = await peer.receive()

    assert of_blob == Absent(subject=b"\x1f" + MISSING.digest)
    assert of_key == Absent(subject=b"\xed" + b"\x07" * 32)


async def test_a_hash_of_another_type_is_asked_for_as_such(tmp_path: Path) -> None:
    async with (
        open_node(tmp_path / "a", 1) as a,
        open_node(tmp_path / "b", 2, [a.url]) as b,
    ):
        with anyio.fail_after(SOON):
            await b.peers.wait_connected()
            assert await b.peers.find(Multihash(bytes(32), HashType.SHA256)) == []


async def test_what_a_node_found_it_passes_on_until_it_expires(tmp_path: Path) -> None:
    async with (
        open_node(tmp_path / "a", 1) as a,
        open_node(tmp_path / "b", 2, [a.url]) as b,
        dial_raw(b.url) as peer,
    ):
        blob = await a.put(b"data")
        await peer.shake_hands()
        with anyio.fail_after(SOON):
            await b.peers.wait_connected(2)
            (found,) = await b.peers.find(blob)
            assert await peer.receive() == query(blob, 5, 3)  # it was asked too
            await peer.send(query(blob, 3).encode())

            assert await peer.receive() == found


async def test_an_older_entry_is_answered_with_the_newer(tmp_path: Path) -> None:
    older, newer = (sign_entry(b"\x09" * 32, n, b"", NATIVE) for n in (1, 2))
    async with open_node(tmp_path, 1) as node, dial_raw(node.url) as peer:
        await node.registry.set(newer)
        await peer.shake_hands()
        with anyio.fail_after(SOON):
            await peer.send(newer.encode(), older.encode())

            assert await peer.receive() == newer
            await peer.send(RegistryQuery(public_key=newer.public_key).encode())
            assert await peer.receive() == newer


async def test_questions_that_overtake_the_handshake_are_answered_after_it(tmp_path: Path) -> None:
    async with open_node(tmp_path, 1) as node, dial_raw(node.url) as peer:
        blob = await node.put(b"data")
        challenge = await peer.challenge()
        with anyio.fail_after(SOON):
            await peer.send(OPENING, query(blob, 3).encode(), done(challenge), OPENING)
            kinds = [type(await peer.receive()).__name__ for _ in range(4)]

    assert kinds == ["Signed", "Signed", "StorageLocation", "Signed"]


async def _is_dropped(peer: RawPeer) -> bool:
    with anyio.fail_after(SOON):
        while await peer.receive() is not None:
            pass
    return True


@pytest.mark.parametrize(
    "frames",
    [
        [done(b"\x01" * 32)],
        [OPENING, *[b"\x63"] * 17],
        [b"\x63" * 2_000_000],
        [PeerHandshake(challenge=b"\x01", network="another").encode()],
    ],
    ids=["another challenge", "talk without an answer", "a frame too long", "another network"],
)
async def test_a_handshake_that_breaks_a_rule_ends_it(tmp_path: Path, frames: list[bytes]) -> None:
    async with open_node(tmp_path, 1) as node, dial_raw(node.url) as peer:
        await peer.challenge()
        await peer.send(*frames)

        assert await _is_dropped(peer)
        assert not node.peers.network.sessions


async def test_other_features_end_it(tmp_path: Path) -> None:
    async with open_node(tmp_path, 1) as node, dial_raw(node.url) as peer:
        await peer.send(OPENING, done(await peer.challenge(), features=7))

        assert await _is_dropped(peer)


async def test_a_handshake_has_its_time(tmp_path: Path) -> None:
    limits = replace(QUICK, handshake_timeout=0.05)
    async with open_node(tmp_path, 1, limits=limits) as node, dial_raw(node.url) as peer:
        assert await _is_dropped(peer)


async def test_a_peer_that_sends_too_much_is_read_more_slowly(tmp_path: Path) -> None:
    limits = replace(QUICK, frames_per_second=100.0, burst_seconds=0.1)
    async with open_node(tmp_path, 1, limits=limits) as node, dial_raw(node.url) as peer:
        blob = await node.put(b"data")
        await peer.shake_hands()
        began = anyio.current_time()
        with anyio.fail_after(SOON):
            await peer.send(*[b"\x63"] * 30, query(blob, 3).encode())
            assert isinstance(await peer.receive(), StorageLocation)

    assert anyio.current_time() - began > 0.15


async def test_a_stranger_sends_this_node_to_no_private_address(tmp_path: Path) -> None:
    """It dials in from 127.0.0.1, and says that a blob is there."""
    async with (
        open_liar(wrong_bytes) as liar,
        open_node(tmp_path, 1, reach=STRANGERS) as node,
        dial_raw(node.url) as peer,
    ):
        await peer.shake_hands()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_answer_with_a_location, peer, liar.url)
                assert await node.peers.find(MISSING) == []
    assert liar.num_downloads == 0


async def _answer_with_a_location(peer: RawPeer, url: str) -> None:
    asked = await peer.receive()
    assert isinstance(asked, HashQuery)
    location = sign_location(
        b"\x55" * 32,
        asked,
        location_type=LocationType.FILE,
        expiry=(1 << 32) - 1,
        parts=(url.replace("ws://", "http://"),),
        crypto=NATIVE,
    )
    await peer.send(location.encode())


class BrokenRegistry:
    """A registry whose disk is full, or gone."""

    async def get(self, public_key: bytes) -> SignedEntry | None:
        raise StorageError("the disk is gone")

    async def set(self, entry: SignedEntry) -> None:
        raise StorageFull("no room")


async def _no_offer(blob: Multihash) -> Offer | None:
    raise StorageError("the disk is gone")


async def test_a_disk_that_fails_ends_no_connection() -> None:
    entry = sign_entry(b"\x09" * 32, 1, b"", NATIVE)
    async with open_peers(
        [],
        node_key=b"\x01" * 32,
        crypto=NATIVE,
        offer=_no_offer,
        entries=BrokenRegistry(),
        limits=QUICK,
    ) as peers:

        async def talk(websocket: ServerConnection) -> None:
            await peers.serve(Accepted(websocket))

        async with serve(talk, "127.0.0.1", 0, close_timeout=0.1) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with dial_raw(f"ws://127.0.0.1:{port}") as peer:
                await peer.send(OPENING, done(await peer.challenge(), extensions=1))
                await peer.receive()
                await peer.receive()
                with anyio.fail_after(SOON):
                    await peer.send(entry.encode(), query(MISSING, 3).encode())
                    assert isinstance(await peer.receive(), Absent)
                    await peer.send(RegistryQuery(public_key=entry.public_key).encode())
                    assert isinstance(await peer.receive(), Absent)


async def test_a_text_frame_ends_it(tmp_path: Path) -> None:
    async def talk(websocket: ServerConnection) -> None:
        await websocket.send("text")
        await websocket.wait_closed()

    async with serve(talk, "127.0.0.1", 0, close_timeout=0.1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with open_node(tmp_path, 1, [f"ws://127.0.0.1:{port}"]) as node:
            with anyio.fail_after(SOON):
                while not node.peers.status()[0].seconds_avoided:
                    await anyio.lowlevel.checkpoint()


async def test_an_announced_peer_that_is_not_there_is_forgotten(tmp_path: Path) -> None:
    with listening_socket() as closed:
        gone = f"ws://127.0.0.1:{closed.getsockname()[1]}/s5/p2p"
    infos = (
        PeerInfo(public_key=b"\x0a" * 32, is_connected=True, uris=("http://no", gone)),
        PeerInfo(public_key=b"\x0b" * 32, is_connected=True, uris=("nothing",)),
    )
    announcement = sign_message(b"\x55" * 32, AnnouncePeers(peers=infos), NATIVE)
    async with open_node(tmp_path, 1) as node, dial_raw(node.url) as peer:
        await peer.shake_hands()
        await peer.send(announcement.encode())
        with anyio.fail_after(SOON):
            while len(node.peers.status()) < 2:
                await anyio.lowlevel.checkpoint()
            assert [status.url for status in node.peers.status()][1:] == [gone]
            while len(node.peers.status()) > 1:
                await anyio.lowlevel.checkpoint()
