"""Nodes ask on for each other: along chains, in rings, for S5.js, and no further than that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from tests.integration.s5.peers.nodes import QUICK, Node, open_node
from tests.integration.s5.peers.raw_peer import RawPeer, dial_raw, done

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import NotFound, PortalUnavailable
from fabstir.s5.formats.registry import SignedEntry, sign_entry
from fabstir.s5.formats.wire import (
    Absent,
    HashQuery,
    PeerHandshake,
    RegistryQuery,
    StorageLocation,
    Trace,
)

M = TypeVar("M")

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SOON = 10.0
MISSING = Multihash(b"\x07" * 32)
ALONE = replace(QUICK, max_discovered=0, announce_again=0.02)
"""Nodes that dial nobody but whom the test names."""


def entry(revision: int, data: bytes = b"data") -> SignedEntry:
    return sign_entry(b"\x09" * 32, revision, data, NATIVE)


@asynccontextmanager
async def chain(folder: Path, length: int, *, is_ring: bool = False) -> AsyncGenerator[list[Node]]:
    """Nodes of which each dials the one before; in a ring the last one dials the first, too."""
    nodes: list[Node] = []
    async with AsyncExitStack() as stack:
        for number in range(length):
            urls = [node.url for node in nodes[-1:]]
            if is_ring and number == length - 1:
                urls.append(nodes[0].url)
            node = open_node(folder / str(number), number + 1, urls, limits=ALONE)
            nodes.append(await stack.enter_async_context(node))
        with anyio.fail_after(SOON):
            for node in nodes:
                at_ends = not is_ring and node in (nodes[0], nodes[-1])
                await node.peers.wait_connected(1 if at_ends else 2)
        yield nodes


@pytest.mark.parametrize("is_from_the_end", [True, False])
async def test_a_blob_and_an_entry_are_found_along_a_chain(
    tmp_path: Path, is_from_the_end: bool
) -> None:
    async with chain(tmp_path, 4) as nodes:
        asker, *_, owner = nodes[::-1] if is_from_the_end else nodes
        blob = await owner.put(b"far away")
        await owner.registry.set(entry(3))

        with anyio.fail_after(SOON):
            assert await asker.peers.get(blob, max_bytes=100) == b"far away"
            assert await asker.peers.registry.get(entry(3).public_key) == entry(3)


async def test_a_ring_says_at_once_what_nobody_has(tmp_path: Path) -> None:
    async with chain(tmp_path, 4, is_ring=True) as nodes:
        with anyio.fail_after(SOON):  # the deadline for answers is twice as long
            async with anyio.create_task_group() as tasks:
                for node in nodes:
                    tasks.start_soon(expect_missing, node)


async def expect_missing(node: Node) -> None:
    with pytest.raises(NotFound):
        await node.peers.get(MISSING, max_bytes=10)
    assert await node.peers.registry.get(b"\x07" * 32) is None


async def test_questions_end_after_three_nodes(tmp_path: Path) -> None:
    async with chain(tmp_path, 6) as nodes:
        near, far = await nodes[4].put(b"near"), await nodes[5].put(b"far")

        with anyio.fail_after(SOON):
            assert await nodes[0].peers.get(near, max_bytes=10) == b"near"
            with pytest.raises(NotFound):
                await nodes[0].peers.get(far, max_bytes=10)


async def test_s5js_finds_through_its_node_what_another_one_has(tmp_path: Path) -> None:
    """It writes BLAKE3 as 1f, finds only what repeats that, and asks nobody else."""
    async with chain(tmp_path, 3) as nodes, dial_raw(nodes[0].url) as peer:
        blob = await nodes[2].put(b"a directory")
        await nodes[2].registry.set(entry(5, blob.to_bytes()))
        await peer.shake_hands()
        with anyio.fail_after(SOON):
            await peer.send(RegistryQuery(public_key=entry(5).public_key).encode())
            found = await next_of(peer, SignedEntry)
            await peer.send(HashQuery(hash=blob, types=(3, 5), legacy=True).encode())
            location = await next_of(peer, StorageLocation)

    assert found == entry(5, blob.to_bytes())
    assert location.legacy
    assert location.public_key == NATIVE.ed25519_public_key(b"\x03" * 32)
    assert f":{nodes[2].port}/" in location.parts[0]


async def next_of(peer: RawPeer, kind: type[M]) -> M:
    """The next message of a kind: a node asks its peers, too."""
    while True:
        message = await peer.receive()
        assert message is not None
        if isinstance(message, kind):
            return message


async def test_an_older_entry_is_not_answered_while_a_peer_has_a_newer_one(tmp_path: Path) -> None:
    async with chain(tmp_path, 2) as nodes, dial_raw(nodes[0].url) as peer:
        await nodes[0].registry.set(entry(1))
        await nodes[1].registry.set(entry(2))
        await peer.shake_hands()
        with anyio.fail_after(SOON):
            await peer.send(RegistryQuery(public_key=entry(1).public_key).encode())

            assert await next_of(peer, SignedEntry) == entry(2)

        assert await nodes[0].registry.get(entry(1).public_key) == entry(2)


async def test_a_question_that_was_seen_is_answered_with_nothing(tmp_path: Path) -> None:
    async with chain(tmp_path, 2) as nodes, dial_raw(nodes[0].url) as peer:
        blob = await nodes[1].put(b"data")
        await shake_hands_as_ours(peer)
        trace = Trace(id=b"question", hops=0)
        with anyio.fail_after(SOON):
            await peer.send(HashQuery(hash=blob, types=(3,), trace=trace).encode())
            assert await peer.receive() == Absent(subject=blob.to_bytes(), trace_id=b"question")
            again = replace(trace, hops=3)
            await peer.send(HashQuery(hash=blob, types=(3,), trace=again).encode())
            assert isinstance(await peer.receive(), StorageLocation)
            await peer.send(HashQuery(hash=MISSING, types=(3,), trace=again).encode())
            assert await peer.receive() == Absent(subject=MISSING.to_bytes(), trace_id=b"question")


async def shake_hands_as_stranger(peer: RawPeer) -> None:
    await peer.send(
        PeerHandshake(challenge=b"\x01" * 64).encode(),
        done(await peer.challenge(), seed=b"\x56" * 32),
    )
    await peer.receive()
    await peer.receive()


async def shake_hands_as_ours(peer: RawPeer) -> None:
    await peer.send(
        PeerHandshake(challenge=b"\x01" * 64).encode(), done(await peer.challenge(), extensions=3)
    )
    await peer.receive()
    await peer.receive()


async def test_who_never_answers_is_soon_waited_for_no_more(tmp_path: Path) -> None:
    limits = replace(ALONE, query_deadline=0.1)
    async with open_node(tmp_path, 1, limits=limits) as node, dial_raw(node.url) as peer:
        await peer.shake_hands()
        with anyio.fail_after(SOON):
            await node.peers.wait_connected()
        blobs = [Multihash(bytes([number]) * 32) for number in range(40)]

        began = anyio.current_time()
        for blob in blobs:
            assert await node.peers.find(blob) == []

    assert anyio.current_time() - began < 2.0  # of 40 deadlines, three


async def test_many_questions_of_one_peer_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A peer of the settings that is silent costs each its deadline: all of them together."""
    limits = replace(ALONE, query_deadline=0.8)
    async with (
        open_node(tmp_path / "a", 1, limits=limits) as a,
        dial_raw(a.url) as silent,
        dial_raw(a.url) as peer,
    ):
        await silent.shake_hands()
        await peer.send(
            PeerHandshake(challenge=b"\x01" * 64).encode(),
            done(await peer.challenge(), extensions=1, seed=b"\x56" * 32),
        )
        await peer.receive()
        await peer.receive()
        blobs = [Multihash(bytes([number]) * 32) for number in range(30)]
        began = anyio.current_time()
        with anyio.fail_after(SOON):
            await peer.send(*[HashQuery(hash=blob, types=(3,)).encode() for blob in blobs])
            absent = [await peer.receive() for _ in blobs]

    assert set(absent) == {Absent(subject=b.to_bytes()) for b in blobs}
    assert anyio.current_time() - began < 6.0


async def test_an_entry_is_told_once_its_blob_can_be_had(tmp_path: Path) -> None:
    limits = replace(ALONE, query_deadline=0.1)
    async with (
        open_node(tmp_path, 1, limits=limits) as node,
        dial_raw(node.url) as writer,
        dial_raw(node.url) as reader,
    ):
        await shake_hands_as_ours(writer)
        await shake_hands_as_stranger(reader)
        blob = Multihash(NATIVE.blake3(b"a directory"))
        with anyio.fail_after(SOON):
            await node.peers.wait_connected(2)
            await writer.send(entry(1, blob.to_bytes()).encode())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer_absent, writer)
                with anyio.move_on_after(0.3):
                    while not isinstance(message := await reader.receive(), SignedEntry):
                        pass
                    pytest.fail(f"it was told of {message}")
                tasks.cancel_scope.cancel()
            await node.put(b"a directory")
            told = await next_of(reader, SignedEntry)

    assert told == entry(1, blob.to_bytes())


async def test_an_entry_is_kept_back_from_its_first_moment(tmp_path: Path) -> None:
    """The writer never says whether it has the blob: meanwhile nobody is told."""
    limits = replace(ALONE, query_deadline=1.0)
    async with (
        open_node(tmp_path, 1, limits=limits) as node,
        dial_raw(node.url) as writer,
        dial_raw(node.url) as reader,
    ):
        await shake_hands_as_ours(writer)
        await shake_hands_as_stranger(reader)
        pointer = entry(1, Multihash(NATIVE.blake3(b"a directory")).to_bytes())
        with anyio.fail_after(SOON):
            await node.peers.wait_connected(2)
            await writer.send(pointer.encode())
            while await node.registry.get(pointer.public_key) is None:
                await anyio.lowlevel.checkpoint()
            with anyio.move_on_after(0.6):
                while True:
                    await reader.send(RegistryQuery(public_key=pointer.public_key).encode())
                    with anyio.move_on_after(0.05):
                        while not isinstance(await reader.receive(), SignedEntry):
                            pass
                        pytest.fail("it was told")


async def answer_absent(peer: RawPeer) -> None:
    """As a node that has not the blob."""
    while True:
        message = await peer.receive()
        if isinstance(message, HashQuery):
            trace_id = None if message.trace is None else message.trace.id
            await peer.send(Absent(subject=message.subject, trace_id=trace_id).encode())


async def test_who_connects_later_is_told_what_it_missed(tmp_path: Path) -> None:
    async with open_node(tmp_path / "a", 1, limits=ALONE) as a:
        await a.registry.set(entry(4))
        a.peers.broadcast(entry(4))
        async with open_node(tmp_path / "b", 2, [a.url], limits=ALONE) as b:
            with anyio.fail_after(SOON):
                while await b.registry.get(entry(4).public_key) != entry(4):
                    await anyio.lowlevel.checkpoint()


async def test_strangers_do_not_stand_in_for_the_peers_of_the_settings(tmp_path: Path) -> None:
    """A tree may have begun at the peer that is away; that a stranger knows none proves nothing."""
    away: Sequence[str] = ["ws://127.0.0.1:1/s5/p2p"]
    limits = replace(ALONE, query_deadline=0.05)
    async with open_node(tmp_path, 1, away, limits=limits) as node, dial_raw(node.url) as peer:
        await peer.shake_hands()
        with anyio.fail_after(SOON):
            await node.peers.wait_connected()
            with pytest.raises(PortalUnavailable, match="settings name"):
                await node.peers.registry.get(b"\x07" * 32)
