"""Whoever comes: what the node does about connections from strangers. All on trio."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import anyio
import pytest
import trio
import trio_websocket
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_WINDOW_UPDATE, YAMUX_HEADER_FORMAT
from tests.integration.p2p.conftest import OpenCore
from tests.integration.p2p.strangers import connection, is_served, multistream, opened, ping, tcp
from tests.open_files import no_more_open_files
from tests.unit.p2p.making import MODEL

from fabstir.p2p import _selfcheck, _transport
from fabstir.p2p._admission import ConnectionLimits
from fabstir.p2p._core import P2PCore
from fabstir.p2p._workarounds import LIBRARY_ERRORS, swarm_of
from fabstir.p2p.limits import MAX_PENDING_PER_ADDRESS, MAX_STREAMS, MAX_UNREAD_BYTES

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

ELSEWHERE = "127.0.0.2"
"""Another address than the attacker's."""

RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def node(open_core: OpenCore) -> P2PCore:
    return await open_core(ws_port=free_port())


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    """Closed before the node is."""
    async with AsyncExitStack() as stack:
        yield stack


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def address(node: P2PCore, *, is_websocket: bool = False) -> str:
    return next(each for each in node.addresses if ("/ws" in each) == is_websocket)


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.01)


@contextmanager
def nothing_left(node: P2PCore) -> Generator[Callable[[], bool]]:
    """Yields whether nothing of the connections made in the block is left."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    files = len(list(Path("/proc/self/fd").iterdir()))
    yield (
        lambda: (
            node.transport.admission.num_inbound == 0
            and node.transport.admission.num_pending == 0
            and node.stats().num_connected_peers == 0
            and trio.lowlevel.current_statistics().tasks_living <= tasks
            and len(list(Path("/proc/self/fd").iterdir())) <= files
        )
    )


async def checked(node: P2PCore) -> None:
    """Wait until the node's first look at itself is over, which is a connection too."""
    await eventually(lambda: node.inbound().age is not None)
    await eventually(lambda: node.stats().num_connected_peers == 0)
    await eventually(lambda: node.transport.admission.num_inbound == 0)


async def test_the_211th_peer_is_served(node: P2PCore) -> None:
    """The library's listener accepts two hundred in its life."""
    for _ in range(210):
        async with connection(address(node)):
            pass

    assert await is_served(address(node))


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_nothing_is_left_of_a_connection(node: P2PCore, end: str) -> None:
    await checked(node)
    with nothing_left(node) as is_nothing_left:
        for _ in range(5):
            with suppress(*LIBRARY_ERRORS):
                async with connection(address(node)) as muxed:
                    await ping(muxed)
                    assert node.transport.admission.num_inbound == 1
                    if end == "reset":
                        transport = muxed.transport
                        transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

        await eventually(is_nothing_left)


async def test_a_peer_that_falls_silent_is_let_go(
    node: P2PCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await checked(node)
    monkeypatch.setattr(_transport, "PEER_SILENCE", 0.5)
    async with connection(address(node)) as muxed:
        await ping(muxed)
        muxed.stop()

        await eventually(lambda: node.transport.admission.num_inbound == 0)
        await eventually(lambda: node.stats().num_connected_peers == 0)


@pytest.mark.parametrize("is_websocket", [False, True])
async def test_silent_sockets_keep_nobody_out(
    node: P2PCore, stack: AsyncExitStack, is_websocket: bool
) -> None:
    door = address(node, is_websocket=is_websocket)
    for _ in range(190):
        await stack.enter_async_context(await tcp(door))

    assert await is_served(address(node), source=ELSEWHERE)
    assert await is_served(address(node))
    assert node.transport.admission.num_pending <= MAX_PENDING_PER_ADDRESS


@pytest.mark.parametrize("is_websocket", [False, True])
async def test_a_silent_socket_is_closed(
    node: P2PCore, is_websocket: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transport, "HANDSHAKE_TIMEOUT", 0.2)
    async with await tcp(address(node, is_websocket=is_websocket)) as stream:
        with anyio.fail_after(5), suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass


async def test_a_half_finished_websocket_is_closed(
    node: P2PCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a WebSocket, but what should speak libp2p on it says nothing."""
    monkeypatch.setattr(_transport, "HANDSHAKE_TIMEOUT", 0.2)
    stream = await tcp(address(node, is_websocket=True))
    async with stream, trio.open_nursery() as nursery:
        websocket = await trio_websocket.wrap_client_stream(nursery, stream, "node", "/")

        with anyio.fail_after(5), pytest.raises(trio_websocket.ConnectionClosed):
            while True:
                await websocket.get_message()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("payload", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"\x13/multi"])
@pytest.mark.parametrize("is_websocket", [False, True])
async def test_garbage_costs_only_its_sender(
    node: P2PCore, payload: bytes, is_websocket: bool
) -> None:
    await checked(node)
    with nothing_left(node) as is_nothing_left:
        for _ in range(5):
            stream = await tcp(address(node, is_websocket=is_websocket))
            await stream.send_all(payload)
            await stream.aclose()

        await eventually(is_nothing_left)
    assert await is_served(address(node))


async def test_many_identities_of_one_address_shut_nobody_out(
    node: P2PCore, stack: AsyncExitStack
) -> None:
    await checked(node)
    admission = node.transport.admission
    admission.limits = ConnectionLimits(inbound=12, inbound_per_address=8)
    for _ in range(12):
        await stack.enter_async_context(connection(address(node)))
    assert admission.num_inbound == 8

    for source in (ELSEWHERE, "127.0.0.1"):
        assert await is_served(address(node), source=source)
        assert admission.num_inbound <= 9


async def test_a_peer_that_is_busy_stays_longer_than_idle_ones(
    node: P2PCore, stack: AsyncExitStack
) -> None:
    await checked(node)
    node.transport.admission.limits = ConnectionLimits(inbound=6, inbound_per_address=6)
    busy = await stack.enter_async_context(connection(address(node)))
    stream = await opened(busy, "/ipfs/ping/1.0.0")
    for _ in range(12):
        await stack.enter_async_context(connection(address(node)))

    await stream.write(b"y" * 32)
    with anyio.fail_after(5):
        assert await stream.read(32) == b"y" * 32


async def test_a_listener_survives_the_last_descriptor(node: P2PCore) -> None:
    await checked(node)
    with socket.socket() as early, no_more_open_files():
        early.setblocking(False)
        early.connect_ex(("127.0.0.1", int(address(node).split("/")[4])))
        await anyio.sleep(0.3)  # it waits in the kernel, and accept() fails meanwhile

    assert await is_served(address(node))


async def test_one_connection_cannot_open_streams_without_end(node: P2PCore) -> None:
    async with connection(address(node)) as muxed:
        for number in range(1001, 1001 + 2 * 400, 2):
            syn = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_WINDOW_UPDATE, FLAG_SYN, number, 0)
            await muxed.secured_conn.write(syn)
        assert await is_served(address(node))

        counts = [
            len(vars(each.muxed_conn)["streams"]) for each in swarm_of(node.host).get_connections()
        ]
        assert MAX_STREAMS <= max(counts) <= MAX_STREAMS + 8  # some of our own


async def test_a_protocol_that_is_no_text_costs_only_its_stream(node: P2PCore) -> None:
    async with connection(address(node)) as muxed:
        for garbage in (b"\x03\xff\xfe\n", b"\x80" * 20, b"\x00", b"\xff\xff\x7f"):
            stream = await muxed.open_stream()
            await stream.write(multistream("/multistream/1.0.0") + garbage)

        await ping(muxed)
    assert await is_served(address(node))


async def test_a_peer_that_reads_nothing_stops_nobody(
    node: P2PCore, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await checked(node)
    monkeypatch.setattr(_transport, "SEND_TIMEOUT", 1.0)
    deaf = await stack.enter_async_context(connection(address(node)))
    await ping(deaf)
    deaf.stop()
    syn = b"".join(
        struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_WINDOW_UPDATE, FLAG_SYN, number, 0)
        for number in range(1001, 3001, 2)
    )
    with suppress(*LIBRARY_ERRORS), anyio.move_on_after(5):
        for _ in range(200):  # until its own buffers are full, and then ours
            await deaf.secured_conn.write(syn)

    assert await is_served(address(node))
    await eventually(lambda: node.transport.admission.num_inbound <= 1)


async def test_what_nobody_reads_is_not_kept(node: P2PCore) -> None:
    """Identify is answered at once; what comes after the answer is never read."""
    async with connection(address(node)) as muxed:
        streams = [await opened(muxed, "/ipfs/id/1.0.0") for _ in range(8)]
        with suppress(*LIBRARY_ERRORS), anyio.move_on_after(10):
            for stream in streams:
                await stream.write(b"\0" * (MAX_UNREAD_BYTES // 4))

        with anyio.fail_after(5):
            await muxed.event_closed.wait()
    assert await is_served(address(node))


async def test_open_dht_streams_stop_no_dht(node: P2PCore, open_core: OpenCore) -> None:
    """The library serves twelve at a time, of all peers together, for as long as they like."""
    other = await open_core(bootstrap=(address(node),))
    async with connection(address(node)) as muxed:
        for _ in range(20):
            await opened(muxed, "/ipfs/kad/1.0.0")

        assert await other.provide(MODEL, 5) == 1

    [found] = await node.find_providers(MODEL, 5)
    assert found.peer_id == other.peer_id


async def look(node: P2PCore) -> str | None:
    await node.self_check.look(node.host.get_transport_addrs())
    return node.inbound().problem


async def test_the_node_sees_that_peers_get_in(node: P2PCore) -> None:
    assert await look(node) is None
    assert node.inbound().age is not None


async def test_the_node_sees_it_also_when_it_is_full(node: P2PCore, stack: AsyncExitStack) -> None:
    await checked(node)
    node.transport.admission.limits = ConnectionLimits(
        pending=4, pending_per_address=2, inbound=6, inbound_per_address=3
    )
    for number in range(6):
        source = f"127.0.0.{number % 3 + 1}"
        await stack.enter_async_context(connection(address(node), source=source))
        await stack.enter_async_context(await tcp(address(node), source))

    assert await look(node) is None


@pytest.mark.parametrize("is_websocket", [False, True])
async def test_the_node_notices_that_a_listener_is_gone(node: P2PCore, is_websocket: bool) -> None:
    [listener] = [
        each
        for name, each in swarm_of(node.host).listeners.items()
        if ("/ws" in name) == is_websocket
    ]
    await listener.close()

    problem = await look(node)

    port = address(node, is_websocket=is_websocket).split("/")[4]
    assert problem is not None
    assert f"/tcp/{port}" in problem
    assert problem.count("nobody gets in") == 1


async def test_the_node_notices_that_it_answers_nobody(
    node: P2PCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await checked(node)
    monkeypatch.setattr(_selfcheck, "SELF_CHECK_TIMEOUT", 0.5)
    monkeypatch.setattr(swarm_of(node.host), "add_conn", anyio.sleep_forever)

    problem = await look(node)

    assert problem is not None
    assert problem.count("nobody gets in") == 2
