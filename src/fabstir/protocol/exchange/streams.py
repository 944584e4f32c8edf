"""What carries frames: the ports that every transport fills."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Path(StrEnum):
    """How a stream reaches its peer."""

    DIRECT = "direct"
    RELAYED = "relayed"


class FrameStream(Protocol):
    """One connection that carries frames, each a text or bytes of its own.

    Attributes:
        peer: who is at the other end: to a host its caller's address, to a renter the host's name.
        path: how it is reached.
    """

    peer: str
    path: Path

    @property
    def is_open(self) -> bool:
        """Whether the peer may still be there."""
        ...

    async def receive(self) -> str | bytes:
        """The next frame.

        Raises:
            anyio.EndOfStream: the peer has closed it.
            anyio.BrokenResourceError: the peer is gone.
            RemoteProtocolError: the peer broke the transport's rules.
        """
        ...

    async def send(self, data: str) -> None:
        """Put one frame on the wire.

        Raises:
            anyio.BrokenResourceError: the peer is gone.
        """
        ...

    async def aclose(self) -> None:
        """Close it; never waits long for a peer that is gone."""
        ...


class CallerStream(FrameStream, Protocol):
    """A stream that a host accepted: its peer is a stranger until it has proved something."""

    async def refuse(self, reason: str) -> None:
        """Close it because of what its peer does; `reason` says what."""
        ...

    def prove(self) -> None:
        """Its peer has paid, and is no stranger any more."""
        ...

    def unprove(self) -> None:
        """What the peer had shown counts no more."""
        ...


class Dialer(Protocol):
    """Opens streams to hosts by one transport. An address is what a host record names: a URL, or a
    libp2p multiaddr that ends in /p2p and the host's peer id."""

    def can_dial(self, address: str) -> bool:
        """Whether it is an address of this transport."""
        ...

    async def dial(self, address: str, peer: str) -> FrameStream:
        """Connect to an address of a host.

        Args:
            peer: what errors call it.

        Raises:
            HostUnresponsive: it cannot be reached.
        """
        ...

    async def measure(self, address: str, peer: str) -> float:
        """Seconds of one round trip to an address of a host, on a stream that was opened for it.

        Raises:
            HostUnresponsive: it cannot be reached, or does not answer.
        """
        ...
