"""Our own TCP transport for libp2p 0.8.1: it accepts connections, bounds them and lets them go.

The library's own listeners are replaced, because they (each with a test in
tests/integration/p2p/test_p2p_inbound.py):

- keep the slot and the task of a connection for the life of the node: after 200 connections, one
  after the other, it accepts nothing more;
- count sockets that say nothing like peers, and have no time limit for a WebSocket's handshake;
- wait for ever for a peer that reads nothing, or that is gone without a word;
- let whatever a connection raises end the node, if it is of a kind that they do not know.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio
import trio
import trio_websocket
from libp2p.abc import IListener, IRawConnection
from libp2p.custom_types import THandler
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.websocket.connection import P2PWebSocketConnection
from libp2p.utils.multiaddr_utils import multiaddr_from_socket
from multiaddr import Multiaddr

from fabstir.p2p._admission import ConnectionLimits, InboundPlaces, Slot
from fabstir.p2p._muxer import BoundedYamux
from fabstir.p2p._nursery import start_in
from fabstir.p2p.limits import (
    ACCEPT_PAUSE,
    CLOSE_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    LISTEN_BACKLOG,
    MAX_WEBSOCKET_MESSAGE,
    PEER_SILENCE,
    SEND_TIMEOUT,
)

logger = logging.getLogger(__name__)

_NO_LINGER: Final = struct.pack("ii", 1, 0)
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class GuardedStream(trio.abc.Stream):
    """A TCP stream that waits for its peer only so long, and can be cut at once.

    Attributes:
        last_received: trio's time of the last byte from the peer.
        ended: set when no more bytes can come.
        closed: set when it is closed, by whomever of us.
    """

    def __init__(self, stream: trio.SocketStream, on_closed: Callable[[GuardedStream], None]):
        self._stream = stream
        self._on_closed = on_closed
        self.socket = stream.socket
        self.slot: Slot | None = None
        self.last_received = trio.current_time()
        self.ended = trio.Event()
        self.closed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises trio.BrokenResourceError: the peer took nothing for SEND_TIMEOUT; it is cut."""
        with trio.move_on_after(SEND_TIMEOUT):
            await self._stream.send_all(bytes(data))
            return
        self.abort()
        raise trio.BrokenResourceError(f"the peer read nothing for {SEND_TIMEOUT} s")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            received = bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.ended.set()
            raise
        if not received:
            self.ended.set()
            return received
        self.last_received = trio.current_time()
        if self.slot is not None:
            self.slot.has_spoken = True
        return received

    def abort(self) -> None:
        """Close with a reset: nothing is sent any more, and nobody is waited for."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.socket.close()
        self._note_closed()

    async def aclose(self) -> None:
        self._note_closed()
        await self._stream.aclose()

    def _note_closed(self) -> None:
        self.ended.set()
        if not self.closed.is_set():
            self.closed.set()
            self._on_closed(self)

    async def cut_when_silent(self) -> None:
        """Run beside the connection: yamux pings every 30 s, which whoever lives answers."""
        while not self.closed.is_set():
            patience = self.last_received + PEER_SILENCE - trio.current_time()
            if patience <= 0:
                self.abort()
            with trio.move_on_after(patience):
                await self.closed.wait()


class _TCPStream(TrioTCPStream):
    """The library's, which says nothing when the connection is closed: its readers then ask again
    a hundred times, and its writers go on."""

    def __init__(self, guarded: GuardedStream) -> None:
        super().__init__(guarded)  # pyright: ignore[reportArgumentType] - it uses what every stream has, and `socket`
        self._guarded = guarded

    async def read(self, n: int | None = None) -> bytes:
        received = await super().read(n)
        if not received and n != 0:
            raise ConnectionClosedError("the peer closed the connection", transport="tcp")
        return received

    async def write(self, data: bytes) -> None:
        if self._guarded.closed.is_set():
            raise ConnectionClosedError("the connection is closed", transport="tcp")
        await super().write(data)


class _WebSocket(P2PWebSocketConnection):
    """The library's, which does not know whom it talks to, with an end."""

    def __init__(
        self, websocket: trio_websocket.WebSocketConnection, guarded: GuardedStream
    ) -> None:
        super().__init__(websocket)
        self._guarded = guarded
        self._remote = _remote_address(guarded)

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._remote

    async def close(self) -> None:
        """The library's waits for the peer to close as well, however long that takes."""
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await super().close()
        self._guarded.abort()


class InboundListener(IListener):
    """One port: plain TCP, or a WebSocket if the address says so."""

    def __init__(self, serve: Callable[[trio.SocketStream, bool], Awaitable[None]]) -> None:
        self._serve = serve
        self._sockets: list[trio.socket.SocketType] = []
        self._addresses: list[Multiaddr] = []
        self.nursery: trio.Nursery | None = None

    async def listen(self, maddr: Multiaddr) -> None:
        """Raises OpenConnectionError: the address is not ours to listen on."""
        assert self.nursery is not None, "the transport was not started"
        is_websocket = "ws" in {protocol.name for protocol in maddr.protocols()}
        is_ipv6 = "ip6" in {protocol.name for protocol in maddr.protocols()}
        host = maddr.value_for_protocol("ip6" if is_ipv6 else "ip4")
        sock = trio.socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await sock.bind((host, int(str(maddr.value_for_protocol("tcp")))))
            sock.listen(LISTEN_BACKLOG)
        except OSError as exc:
            sock.close()
            raise OpenConnectionError(f"cannot listen on {maddr}: {exc}") from exc
        address = multiaddr_from_socket(sock)
        self._sockets.append(sock)
        self._addresses.append(address.encapsulate("/ws") if is_websocket else address)
        start_in(self.nursery, self._accept, self.nursery, sock, is_websocket)

    async def _accept(
        self, nursery: trio.Nursery, sock: trio.socket.SocketType, is_websocket: bool
    ) -> None:
        """Accept until closed, whatever accept() says: a listener that gave up would be deaf."""
        is_starved = False
        while True:
            try:
                accepted, _ = await sock.accept()
                stream = trio.SocketStream(accepted)
            except trio.ClosedResourceError:
                return
            except OSError as exc:
                if sock.fileno() < 0:
                    return
                if exc.errno in _OUT_OF_RESOURCES and not is_starved:
                    is_starved = True
                    logger.exception("libp2p accepts nobody until files are closed")
                await trio.sleep(ACCEPT_PAUSE)
                continue
            is_starved = False
            start_in(nursery, self._serve, stream, is_websocket)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(self._addresses)

    async def close(self) -> None:
        for sock in self._sockets:
            sock.close()


class InboundTransport(TCP):
    """TCP in both directions, and WebSocket for those who come from a browser.

    WebSocket addresses are not dialled: every node of ours listens on TCP, and the library's
    client for them now and then leaves its socket open.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__()
        self.admission = InboundPlaces(limits)
        self._open: set[GuardedStream] = set()
        self._swarm: Swarm | None = None
        self._nursery: trio.Nursery | None = None

    def set_swarm(self, swarm: Swarm) -> None:
        """Called by the library when it starts."""
        self._swarm = swarm

    def set_background_nursery(self, nursery: trio.Nursery) -> None:
        """Called by the library when it starts; its tasks live as long as the node."""
        self._nursery = nursery

    def can_listen(self, maddr: Multiaddr) -> bool:
        names = {protocol.name for protocol in maddr.protocols()}
        return "tcp" in names and not names & {"wss", "tls", "quic", "quic-v1"}

    def create_listener(self, handler_function: THandler) -> InboundListener:  # pyright: ignore[reportIncompatibleMethodOverride] - the interface's type, which TCP narrows to its own class
        """The library's handler is not called: it would keep the connection's slot for ever."""
        del handler_function
        listener = InboundListener(self._serve)
        listener.nursery = self._nursery
        return listener

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        raw = await super().dial(maddr)
        assert isinstance(raw, RawConnection)
        assert isinstance(raw.stream, TrioTCPStream)
        assert self._nursery is not None
        guarded = self._guard(raw.stream.stream)
        start_in(self._nursery, guarded.cut_when_silent)
        return RawConnection(_TCPStream(guarded), True)

    def abort_all(self) -> None:
        """Cut every connection, for whoever cannot wait for them to be closed."""
        for stream in tuple(self._open):
            stream.abort()

    def _guard(self, stream: trio.SocketStream) -> GuardedStream:
        guarded = GuardedStream(stream, self._open.discard)
        self._open.add(guarded)
        return guarded

    async def _serve(self, stream: trio.SocketStream, is_websocket: bool) -> None:
        """One inbound connection, from accept() until nothing of it is left."""
        guarded = self._guard(stream)
        remote = _remote_address(guarded)
        slot = self.admission.admit(
            remote[0] if remote else "", guarded.abort, guarded.last_received
        )
        guarded.slot = slot
        try:
            await self._serve_admitted(guarded, slot, is_websocket)
        except Exception as exc:  # noqa: BLE001 - a stranger's bytes reach all of the library, whose errors must cost him the connection, not us the node
            logger.debug("an inbound connection failed", extra={"cause": repr(exc)})
        finally:
            self.admission.release(slot)
            guarded.abort()

    async def _serve_admitted(self, guarded: GuardedStream, slot: Slot, is_websocket: bool) -> None:
        assert self._swarm is not None
        async with trio.open_nursery() as nursery:
            with trio.fail_after(HANDSHAKE_TIMEOUT) as handshake:
                start_in(nursery, _cancel_at_end, guarded, handshake)
                raw: ReadWriteCloser = _TCPStream(guarded)
                if is_websocket:
                    request = await trio_websocket.wrap_server_stream(
                        nursery, guarded, max_message_size=MAX_WEBSOCKET_MESSAGE
                    )
                    raw = _WebSocket(await request.accept(), guarded)
                muxed = await self._upgrade(RawConnection(raw, False))
                muxed.on_used = _touch(slot)
                peer_id = muxed.peer_id.to_bytes()
                if not self.admission.establish(slot, peer_id, muxed.is_busy):
                    return
                connection = await self._swarm.add_conn(muxed, direction="inbound")
            start_in(nursery, guarded.cut_when_silent)
            start_in(nursery, _cut_at_end, muxed, guarded)
            await guarded.closed.wait()
            self.admission.release(slot)
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await muxed.event_closed.wait()
                await connection.close()
            nursery.cancel_scope.cancel()

    async def _upgrade(self, raw: RawConnection) -> BoundedYamux:
        assert self._swarm is not None
        upgrader = self._swarm.upgrader
        secured = await upgrader.upgrade_security(raw, False)
        muxed = await upgrader.upgrade_connection(secured, secured.get_remote_peer())
        assert isinstance(muxed, BoundedYamux)
        return muxed


def descriptor_limit() -> int:
    """How many files this process may open."""
    if sys.platform == "win32":
        return 8192  # of the C runtime; sockets are not among them
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else sys.maxsize


def _touch(slot: Slot) -> Callable[[], None]:
    def touch() -> None:
        slot.last_used = trio.current_time()

    return touch


async def _cancel_at_end(guarded: GuardedStream, handshake: trio.CancelScope) -> None:
    """A WebSocket whose peer left would wait for its request until the time is up."""
    await guarded.ended.wait()
    handshake.cancel()


async def _cut_at_end(muxed: BoundedYamux, guarded: GuardedStream) -> None:
    await muxed.event_closed.wait()
    guarded.abort()


def _remote_address(guarded: GuardedStream) -> tuple[str, int] | None:
    try:
        host, port = guarded.socket.getpeername()[:2]
    except OSError:  # it is gone already
        return None
    return str(host), int(port)
