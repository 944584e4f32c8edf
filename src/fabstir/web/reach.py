"""Where strangers may send this program: names are resolved, every address is checked, and the
connection goes to an address that was checked, so that no second answer of a name server counts.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from fabstir.primitives.errors import AddressRefused
from fabstir.primitives.text import one_line
from fabstir.web.addresses import Place, place_of

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the IP addresses of a host and port; raises OSError."""

SETTING: Final = "network.allow_private"


async def resolve_name(host: str, port: int) -> Sequence[str]:
    """Ask the system, which also knows `127.1`, `2130706433` and `0x7f000001` for addresses."""
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:  # a label that is empty or too long
        raise OSError(f"{host!r} is no host name") from exc
    return list(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What may be connected to where a stranger says so.

    Attributes:
        allow_private: also this machine and private networks: on a devnet, and in a network of
            one's own. Never link-local, multicast or reserved addresses.
        resolve: how names become addresses.
    """

    allow_private: bool = False
    resolve: Resolve = resolve_name

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, all of which may be connected to.

        Raises:
            AddressRefused: one of them may not; says which and what would allow it.
            OSError: the host is not known.
        """
        found = await self.resolve(host, port)
        if not found:
            raise OSError(f"{one_line(host)} has no address")
        for address in found:
            self.check(host, address)
        return found

    async def is_private(self, host: str, port: int) -> bool:
        """Whether a host is of this machine or a private network, whatever is allowed here."""
        try:
            found = await self.resolve(host, port)
        except OSError:
            return False
        return any(not STRANGERS.may_be_reached(address) for address in found)

    def may_be_reached(self, host: str) -> bool:
        """False: it is an address that may not be connected to. Names are judged when resolved."""
        try:
            place_of(host)
        except ValueError:
            return True
        try:
            self.check(host, host)
        except AddressRefused:
            return False
        return True

    def check(self, host: str, address: str) -> None:
        """Raises AddressRefused: the address that `host` resolved to may not be connected to."""
        try:
            place = place_of(address)
        except ValueError:
            place = Place.UNUSABLE
        if place is Place.PUBLIC or (place is Place.PRIVATE and self.allow_private):
            return
        shown = one_line(host) if host == address else f"{one_line(host)} ({one_line(address)})"
        fix = (
            f"; set {SETTING} = true if it is in a network of your own, such as a devnet"
            if place is Place.PRIVATE
            else ""
        )
        raise AddressRefused(
            f"{shown} is an address {place.value}, where strangers send this program nowhere{fix}"
        )


STRANGERS: Final = Reach()
"""Public addresses only."""
