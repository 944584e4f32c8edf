"""Peers that are nobody's host: sockets and libp2p connections made by hand, without a swarm."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.io.trio import TrioTCPStream
from libp2p.io.utils import read_exactly
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from fabstir.p2p._nursery import start_in
from fabstir.p2p._workarounds import LIBRARY_ERRORS, noise_only, yamux_only


def multistream(line: str) -> bytes:
    """A line of multistream-select, with which libp2p peers agree on a protocol."""
    return bytes([len(line) + 1]) + line.encode() + b"\n"


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of a TCP multiaddr."""
    parsed = Multiaddr(address.split("/p2p/")[0])
    family = "ip6" if "/ip6/" in address else "ip4"
    return str(parsed.value_for_protocol(family)), int(str(parsed.value_for_protocol("tcp")))


async def tcp(address: str, source: str = "127.0.0.1") -> trio.SocketStream:
    """A bare connection from one of the loopback addresses."""
    sock = trio.socket.socket(socket.AF_INET)
    await sock.bind((source, 0))
    await sock.connect(endpoint(address))
    return trio.SocketStream(sock)


class Stranger(Yamux):
    """A muxer as the library has it, without our bounds.

    Attributes:
        transport: the socket under it.
        stop: read nothing any more, and answer nothing.
    """

    transport: trio.socket.SocketType
    stop: Callable[[], None]


@asynccontextmanager
async def connection(
    address: str, *, source: str = "127.0.0.1", key_pair: KeyPair | None = None
) -> AsyncGenerator[Stranger]:
    """A noise and yamux connection for the length of the block; leaving it closes the socket."""
    key_pair = key_pair or create_new_key_pair()
    upgrader = TransportUpgrader(noise_only(key_pair), yamux_only())
    host = ID.from_base58(address.rsplit("/p2p/", 1)[1])
    stream = await tcp(address, source)
    async with stream, trio.open_nursery() as nursery:
        raw = RawConnection(TrioTCPStream(stream), True)
        secured = await upgrader.upgrade_security(raw, True, host)
        bounded = await upgrader.upgrade_connection(secured, host)
        muxed = Stranger(secured, bounded.peer_id)
        scope = anyio.CancelScope()
        muxed.transport, muxed.stop = stream.socket, scope.cancel

        async def run() -> None:
            with scope:
                await muxed.start()

        start_in(nursery, run)
        await muxed.event_started.wait()
        yield muxed
        muxed.stop()


async def opened(muxed: Yamux, protocol: str) -> YamuxStream:
    """A stream on which the peer agreed to the protocol."""
    stream = await muxed.open_stream()
    await stream.write(multistream("/multistream/1.0.0") + multistream(protocol))
    expected = multistream("/multistream/1.0.0") + multistream(protocol)
    assert await read_exactly(stream, len(expected)) == expected
    return stream


async def ping(muxed: Yamux) -> None:
    """One round trip of libp2p's ping."""
    stream = await opened(muxed, "/ipfs/ping/1.0.0")
    await stream.write(b"x" * 32)
    assert await read_exactly(stream, 32) == b"x" * 32
    await stream.reset()


async def is_served(address: str, *, source: str = "127.0.0.1", timeout: float = 5.0) -> bool:
    """Whether a peer that comes now gets an answer."""
    with anyio.move_on_after(timeout), suppress(*LIBRARY_ERRORS):
        async with connection(address, source=source) as muxed:
            await ping(muxed)
            return True
    return False
