"""Every way from this renter to a host: whichever transport an address is of dials it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from fabstir.primitives.errors import HostUnresponsive
from fabstir.primitives.ids import Address
from fabstir.protocol.exchange.streams import Dialer, FrameStream


@dataclass(frozen=True, slots=True)
class MeasuredAddress:
    """An address that answered. `latency`: seconds of one round trip by its own transport."""

    address: str
    latency: float


@dataclass(frozen=True, slots=True)
class Transports:
    """The dialers of a client. Where two could dial an address, the first one does."""

    dialers: Sequence[Dialer]

    def can_dial(self, address: str) -> bool:
        """Whether one of them does."""
        return any(dialer.can_dial(address) for dialer in self.dialers)

    async def dial(self, address: str, host: Address) -> FrameStream:
        """Connect to one address of a host.

        Raises:
            HostUnresponsive: it cannot be reached, or no transport of ours leads there.
        """
        peer = _name(host, address)
        return await self._dialer_of(address, peer).dial(address, peer)

    async def measure(
        self, addresses: Sequence[str], host: Address, *, timeout: float
    ) -> tuple[MeasuredAddress, ...]:
        """The addresses of a host that answer, the quickest first; all are tried at once.

        Args:
            timeout: seconds for all of them.

        Raises:
            HostUnresponsive: none does; names each, and why.
        """
        answered: list[MeasuredAddress] = []
        failures: dict[str, str] = {}

        async def measure(address: str) -> None:
            peer = _name(host, address)
            failures[address] = f"{peer} does not answer: nothing came for {timeout:g} s"
            try:
                latency = await self._dialer_of(address, peer).measure(address, peer)
            except HostUnresponsive as error:
                failures[address] = str(error)
            else:
                answered.append(MeasuredAddress(address, latency))

        with anyio.move_on_after(timeout):
            async with anyio.create_task_group() as tasks:
                for address in addresses:
                    tasks.start_soon(measure, address)
        if not answered:
            reasons = [failures[address] for address in addresses]
            raise HostUnresponsive("; ".join(reasons) or f"host {host} names no address")
        return tuple(sorted(answered, key=lambda each: each.latency))

    def _dialer_of(self, address: str, peer: str) -> Dialer:
        for dialer in self.dialers:
            if dialer.can_dial(address):
                return dialer
        raise HostUnresponsive(f"{peer} cannot be reached: no transport of ours leads there")


def _name(host: Address, address: str) -> str:
    return f"host {host} at {address}"
