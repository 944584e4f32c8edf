"""What libp2p 0.8.1 gets wrong when it serves strangers: the second half of _workarounds.py.

One function a bug, each with a test in tests/integration/p2p/test_p2p_inbound.py, so that they can
be deleted one by one. The connections themselves are _transport.py's and _muxer.py's.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress

import anyio
import libp2p.kad_dht.kad_dht as libp2p_kad
import libp2p.stream_muxer.muxer_multistream as libp2p_muxers
import libp2p.stream_muxer.yamux.yamux as libp2p_yamux
import trio
from anyio.abc import TaskGroup
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_PROTOCOL
from libp2p.host.ping import handle_ping
from libp2p.kad_dht.common import PROTOCOL_ID as KAD_PROTOCOL
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID

from fabstir.p2p._muxer import BoundedYamux
from fabstir.p2p._workarounds import LIBRARY_ERRORS, swarm_of
from fabstir.p2p.limits import (
    CLOSE_TIMEOUT,
    DHT_STREAM_TIMEOUT,
    MAX_REQUEST_BYTES,
    MAX_STREAMS,
    ROUTING_PATIENCE,
)

logger = logging.getLogger(__name__)


def bound_muxer() -> None:
    """The library makes its own Yamux, whatever muxer it is given, and lets its windows grow to
    16 MiB a stream. See `BoundedYamux`."""
    assert hasattr(libp2p_muxers, "Yamux"), "libp2p makes its muxers elsewhere"
    assert hasattr(libp2p_yamux, "MAX_WINDOW_SIZE"), "libp2p renamed the window's bound"
    libp2p_muxers.Yamux = BoundedYamux  # pyright: ignore[reportPrivateImportUsage] - the name it is made by
    libp2p_yamux.MAX_WINDOW_SIZE = libp2p_yamux.DEFAULT_WINDOW_SIZE


def share_no_limits(host: BasicHost) -> None:
    """The default resource manager counts the streams of all peers with one semaphore, on which a
    new stream waits: one peer's open streams stop everybody's. It also keeps metrics for each peer
    there ever was, and tells the node to dial whenever a peer leaves. Our bounds are a
    connection's own (`contain_streams`) and the transport's."""
    swarm = swarm_of(host)
    swarm.set_resource_manager(None)

    def forget(peer_id: ID) -> None:
        del peer_id

    assert hasattr(swarm.auto_connector, "record_disconnect"), "libp2p renamed its back-off"
    swarm.auto_connector.record_disconnect = forget


def contain_streams(host: BasicHost) -> None:
    """An error in a stream's handler, such as a protocol name that is no UTF-8, ends the node, and
    one connection may open as many streams as its peer likes."""
    swarm = swarm_of(host)
    serve = swarm.common_stream_handler

    async def contained(stream: INetStream) -> None:
        muxed = stream.muxed_conn
        try:
            if isinstance(muxed, BoundedYamux):
                muxed.on_used()
                if len(muxed.streams) > MAX_STREAMS:
                    await stream.reset()
                    return
            await serve(stream)
        except Exception as exc:  # noqa: BLE001 - see above: it costs the peer its stream
            logger.debug("a stream's handler failed", extra={"cause": repr(exc)})
            await _reset(stream)

    swarm.set_stream_handler(contained)


def ping_without_a_lock(host: BasicHost) -> None:
    """The library's ping service resets a third stream of a peer while it holds the lock of all
    peers' pings: one that reads nothing stops them. It also remembers every peer for ever."""
    host.set_stream_handler(PING_PROTOCOL, handle_ping)


def serve_dht_in_time(host: BasicHost, dht: KadDHT, tasks: TaskGroup) -> None:
    """The DHT serves twelve streams of all peers together, each for as long as its peer likes.
    Before it reads a question it waits until the asker is in the routing table, that is for a
    bucket's lock, which is held while the bucket's oldest peer is pinged. A request may have 4 MiB.


    Args:
        tasks: the askers are added there.
    """
    assert hasattr(libp2p_kad, "MAX_DHT_MESSAGE_SIZE"), "libp2p renamed the request's bound"
    assert hasattr(dht, "_inbound_limiter"), "libp2p renamed the limiter of DHT streams"
    libp2p_kad.MAX_DHT_MESSAGE_SIZE = MAX_REQUEST_BYTES  # pyright: ignore[reportPrivateImportUsage] - the name that the server reads
    dht._inbound_limiter = trio.CapacityLimiter(math.inf)  # pyright: ignore[reportPrivateUsage] - see above
    serve, under_way = dht.handle_stream, dict[ID, anyio.Event]()

    async def serve_in_time(stream: INetStream) -> None:
        with anyio.move_on_after(DHT_STREAM_TIMEOUT):
            await serve(stream)
            return
        await _reset(stream)

    async def add(peer_id: ID, is_done: anyio.Event) -> None:
        with anyio.move_on_after(DHT_STREAM_TIMEOUT), suppress(*LIBRARY_ERRORS):
            await dht.routing_table.add_peer(peer_id)
        is_done.set()
        del under_way[peer_id]

    async def add_soon(peer_id: ID, *, skip_server_mode_check: bool = False) -> bool:
        del skip_server_mode_check
        if peer_id not in under_way:
            under_way[peer_id] = anyio.Event()
            tasks.start_soon(add, peer_id, under_way[peer_id])
        with anyio.move_on_after(ROUTING_PATIENCE):
            await under_way[peer_id].wait()
        return True

    dht.add_peer = add_soon
    if dht.mode is DHTMode.SERVER:
        host.set_stream_handler(KAD_PROTOCOL, serve_in_time)


async def _reset(stream: INetStream) -> None:
    try:
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await stream.reset()
    except Exception as exc:  # noqa: BLE001 - the connection is gone, whatever the library calls it
        logger.debug("a stream could not be reset", extra={"cause": repr(exc)})
