"""Dial our own listeners as a stranger would, to notice when nobody gets in any more.

The check is outside of the node's swarm: a socket, a key made for it, noise, yamux and one ping. So
it takes every step that a peer takes, and a place among the inbound connections like a peer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio
import trio_websocket
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.ping import ID as PING_PROTOCOL
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.io.utils import read_exactly
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.transport.websocket.connection import P2PWebSocketConnection
from multiaddr import Multiaddr

from fabstir.p2p._nursery import start_in
from fabstir.p2p._workarounds import LIBRARY_ERRORS, noise_only, yamux_only
from fabstir.p2p.limits import (
    SELF_CHECK_INTERVAL,
    SELF_CHECK_RETRY,
    SELF_CHECK_TIMEOUT,
)
from fabstir.primitives.groups import leaves

logger = logging.getLogger(__name__)

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_PAYLOAD = b"fabstir looks whether it is here"
_ERRORS = (*LIBRARY_ERRORS, trio_websocket.ConnectionClosed, trio_websocket.HandshakeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundStatus:
    """Whether peers get in.

    Attributes:
        problem: what a stranger met that dialled our own listeners, or None.
        age: seconds since that was last looked at, or None if it was not yet.
        num_inbound: finished inbound connections.
        num_pending: inbound connections in their handshake.
        num_admitted: inbound connections accepted since the start.
        num_evicted: of those, cut to make room for another.
    """

    problem: str | None = None
    age: float | None = None
    num_inbound: int = 0
    num_pending: int = 0
    num_admitted: int = 0
    num_evicted: int = 0

    @property
    def is_overdue(self) -> bool:
        """Whether checks have stopped, which is a bug or a machine that does not keep up."""
        return self.age is not None and self.age > 4 * SELF_CHECK_INTERVAL


class SelfCheck:
    """Looks again and again until cancelled.

    Attributes:
        problem: as in InboundStatus.
        checked_at: trio's time of the last check, or None.
    """

    def __init__(self, own_id: ID) -> None:
        self._own_id = own_id
        self.problem: str | None = None
        self.checked_at: float | None = None

    async def run(self, listening: Sequence[Multiaddr]) -> None:
        while True:
            await self.look(listening)
            await trio.sleep(SELF_CHECK_RETRY if self.problem else SELF_CHECK_INTERVAL)

    async def look(self, listening: Sequence[Multiaddr]) -> None:
        """Dial each listener once."""
        problems: list[str] = []
        for address in listening:
            cause = await dial_as_stranger(address, self._own_id)
            if cause is not None:
                problems.append(f"nobody gets in on {address} ({cause})")
        problem = "; ".join(problems) or None
        if problem and problem != self.problem:
            logger.warning("libp2p does not answer itself", extra={"cause": problem})
        self.problem, self.checked_at = problem, trio.current_time()


async def dial_as_stranger(address: Multiaddr, expected: ID) -> str | None:
    """Why the ping of a new peer at one of our addresses fails; None if it does not."""
    with trio.move_on_after(SELF_CHECK_TIMEOUT):
        try:
            await _ping(address, expected)
        except _ERRORS as exc:
            return _reason(exc)
        return None
    return f"no answer in {SELF_CHECK_TIMEOUT:g} s"


async def _ping(address: Multiaddr, expected: ID) -> None:
    names = {protocol.name for protocol in address.protocols()}
    host = str(address.value_for_protocol("ip6" if "ip6" in names else "ip4"))
    port = int(str(address.value_for_protocol("tcp")))
    upgrader = TransportUpgrader(noise_only(create_new_key_pair()), yamux_only())
    stream = await trio.open_tcp_stream(_LOOPBACK.get(host, host), port)
    async with stream, trio.open_nursery() as nursery:
        raw: ReadWriteCloser = TrioTCPStream(stream)
        if "ws" in names:
            raw = P2PWebSocketConnection(
                await trio_websocket.wrap_client_stream(nursery, stream, f"{host}:{port}", "/")
            )
        secured = await upgrader.upgrade_security(RawConnection(raw, True), True, expected)
        muxed = await upgrader.upgrade_connection(secured, expected)
        assert isinstance(muxed, Yamux)
        start_in(nursery, muxed.start)
        await muxed.event_started.wait()
        ping = await muxed.open_stream()
        await MultiselectClient().select_one_of([PING_PROTOCOL], MultiselectCommunicator(ping))
        await ping.write(_PAYLOAD)
        if await read_exactly(ping, len(_PAYLOAD)) != _PAYLOAD:
            raise ValueError("a ping came back with other bytes")
        nursery.cancel_scope.cancel()


def _reason(error: BaseException) -> str:
    """The first cause in a nursery's group, in words."""
    first, *_ = leaves(error)
    return str(first) or type(first).__name__
