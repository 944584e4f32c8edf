"""Dials a host's WebSocket door: a stream of frames that costs only so much memory.

Measured: a host that is killed closes its TCP connection at once; one that is stopped answers no
ping, which is noticed after at most PING_INTERVAL + PING_TIMEOUT and the time to give up closing,
and the time that a slow line takes for what was sent since the last pong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import anyio
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.frames import CloseCode
from websockets.protocol import State

from fabstir.primitives.errors import AddressRefused, HostUnresponsive, RemoteProtocolError
from fabstir.protocol.exchange.streams import FrameStream, Path
from fabstir.protocol.limits import MAX_HOST_FRAME_BYTES
from fabstir.sdk.bounded_socket import MAX_UNREAD_BYTES, PING_INTERVAL, BoundedSocket
from fabstir.telemetry.background import to_its_end
from fabstir.web.addresses import parse_strangers_url
from fabstir.web.reach import Reach
from fabstir.web.sockets import WEBSOCKET_SCHEMES, connect_websocket

OPEN_TIMEOUT: Final = 10.0
"""Seconds for TCP, TLS and the WebSocket's own handshake."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for a closing handshake that a dead host will never answer."""

MAX_UNREAD_FRAMES: Final = 1024
"""Frames kept for a slow reader before the socket is read no further (and pings go unanswered). A
host that keeps to its window of unacknowledged tokens never sends a quarter as many."""

_BREACHES: Final = {CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG}
"""What our side closes with when the peer's frames break the rules."""

_DOORS: Final = {"http": "ws", "https": "wss"}
_HOST_SCHEMES: Final = frozenset({*_DOORS, *WEBSOCKET_SCHEMES})


class HostSocketStream:
    """A socket to a host. See `FrameStream`."""

    path = Path.DIRECT

    def __init__(self, socket: BoundedSocket, peer: str) -> None:
        self._socket = socket
        self.peer = peer

    @property
    def is_open(self) -> bool:
        return self._socket.state is State.OPEN

    async def receive(self) -> bytes:
        try:
            return await self._socket.read()
        except ConnectionClosed as exc:
            if (breach := self._breach(exc)) is not None:
                raise breach from exc
            raise (anyio.BrokenResourceError if exc.rcvd is None else anyio.EndOfStream) from exc

    async def send(self, data: str) -> None:
        try:
            await self._socket.write(data)
        except (ConnectionClosed, TimeoutError) as exc:
            raise anyio.BrokenResourceError from exc

    async def aclose(self) -> None:
        await to_its_end(self._socket.close())

    def _breach(self, cause: ConnectionClosed) -> RemoteProtocolError | None:
        """Why we cut the connection ourselves, if we did."""
        if self._socket.has_overflowed:
            reason = f"sent more than {MAX_UNREAD_BYTES} bytes ahead of what was read"
        elif cause.sent is not None and cause.sent.code in _BREACHES and not cause.rcvd_then_sent:
            reason = f"broke the WebSocket protocol ({cause.sent.reason or cause.sent.code})"
        else:
            return None
        return RemoteProtocolError(f"{self.peer} {reason}: its connection was cut")


@dataclass(frozen=True, slots=True)
class WebSocketDialer:
    """Opens sockets to hosts; `reach` says where their URLs may lead. See `Dialer`."""

    reach: Reach

    def can_dial(self, address: str) -> bool:
        return address.partition("://")[0].lower() in _HOST_SCHEMES

    async def dial(self, address: str, peer: str) -> FrameStream:
        """Raises HostUnresponsive: it cannot be reached, or its URL leads where it may not."""
        return HostSocketStream(await self._connect(address, peer), peer)

    async def measure(self, address: str, peer: str) -> float:
        """By a ping, which a host's WebSocket answers by itself."""
        socket = await self._connect(address, peer)
        try:
            with anyio.fail_after(OPEN_TIMEOUT):
                return await (await socket.ping())
        except (ConnectionClosed, TimeoutError) as exc:
            raise HostUnresponsive(f"{peer} does not answer a ping") from exc
        finally:
            await to_its_end(socket.close())

    async def _connect(self, api_url: str, peer: str) -> BoundedSocket:
        try:
            socket = await connect_websocket(
                websocket_url(api_url),
                reach=self.reach,
                open_timeout=OPEN_TIMEOUT,
                ping_interval=PING_INTERVAL,
                close_timeout=CLOSE_TIMEOUT,
                compression=None,  # ciphertext: nothing to gain, and a bomb's bytes are not ours
                max_size=MAX_HOST_FRAME_BYTES,
                max_queue=MAX_UNREAD_FRAMES,
                create_connection=BoundedSocket,
            )
        except AddressRefused as exc:
            raise HostUnresponsive(f"{peer} is not contacted: {exc}") from exc
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed) as exc:
            reason = str(exc) or type(exc).__name__
            raise HostUnresponsive(f"{peer} cannot be reached: {reason}") from exc
        assert isinstance(socket, BoundedSocket), "made by create_connection"
        return socket


def websocket_url(api_url: str) -> str:
    """The door for sessions of a host's http(s) URL; a ws(s) URL is taken as it is.

    Raises:
        AddressRefused: it is no URL that a host may have.
    """
    url = parse_strangers_url(api_url, _HOST_SCHEMES)
    if url.scheme in WEBSOCKET_SCHEMES:
        return str(url)
    return url.with_scheme(_DOORS[url.scheme]) + url.path.rstrip("/") + "/v1/ws"
