"""Which IP addresses strangers may name, and what a URL of theirs looks like. No I/O.

Sources: IANA's special-purpose registries for IPv4 and IPv6, of which Python's `is_global` follows
another edition in each release; so the ranges stand here.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final
from urllib.parse import unquote

from fabstir.primitives.errors import AddressRefused
from fabstir.primitives.text import one_line

MAX_PATH_CHARS: Final = 1024
"""Longest path of a stranger's URL: those of S5's locations take 100."""

_MAX_SHOWN_CHARS = 200

_IPV6_NETWORK_BITS = 64
"""What one household has: counting single IPv6 addresses would count nothing."""


class Place(Enum):
    """Where an address leads."""

    PUBLIC = "public"
    PRIVATE = "of this machine or a private network"
    UNUSABLE = "of no single machine that anybody could mean"
    """Link-local (where clouds keep their machines' credentials), multicast, reserved."""


_PRIVATE_4 = [
    IPv4Network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
]
_UNUSABLE_4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_PRIVATE_6 = [IPv6Network(text) for text in ("::1/128", "fc00::/7")]
_GLOBAL_6 = IPv6Network("2000::/3")
_UNUSABLE_6 = [IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20")]
"""Of 2000::/3: Teredo and other protocols' own, and documentation."""

_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")


def place_of(address: str) -> Place:
    """Where an address leads; of one that stands for another (mapped, translated), that one's.

    Raises:
        ValueError: it is no address.
    """
    parsed = ip_address(address.partition("%")[0])
    return _place_4(parsed) if isinstance(parsed, IPv4Address) else _place_6(parsed)


def _place_4(address: IPv4Address) -> Place:
    if any(address in network for network in _PRIVATE_4):
        return Place.PRIVATE
    if any(address in network for network in _UNUSABLE_4):
        return Place.UNUSABLE
    return Place.PUBLIC


def _place_6(address: IPv6Address) -> Place:
    inner = _inner(address)
    if inner is not None:
        return _place_4(inner)
    if any(address in network for network in _PRIVATE_6):
        return Place.PRIVATE
    if address not in _GLOBAL_6 or any(address in network for network in _UNUSABLE_6):
        return Place.UNUSABLE
    return Place.PUBLIC


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one reach in the end."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
    return None


_NUMBER = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")
"""What `inet_aton` reads as one IPv4 address."""

_URL = re.compile(
    r"(?P<scheme>[A-Za-z]{2,5})://"
    r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(:(?P<port>[0-9]{1,5}))?"
    rf"(?P<path>(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*){{0,{MAX_PATH_CHARS}}})"
)
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@dataclass(frozen=True, slots=True)
class StrangersUrl:
    """A URL that somebody else wrote, taken apart by one grammar, so that who checks it and who
    connects read the same.

    Attributes:
        host: a name or an address, without brackets, in lower case.
        path: "" or from its first "/" on.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """`scheme://host[:port]`, without the scheme's own port."""
        return self.with_scheme(self.scheme)

    def with_scheme(self, scheme: str) -> str:
        """The origin under another scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[scheme] else f":{self.port}"
        return f"{scheme}://{host}{port}"

    def __str__(self) -> str:
        return self.origin + self.path


def parse_strangers_url(
    text: str, schemes: frozenset[str] = frozenset({"http", "https"})
) -> StrangersUrl:
    """`scheme://host[:port][/path]` and nothing else: no user, query or fragment, no "..".

    Raises:
        AddressRefused: it is no such URL.
    """
    match = _URL.fullmatch(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in schemes or len(match["path"]) > MAX_PATH_CHARS:
        raise _no_url(text, schemes)
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
    if not 0 < port < 65_536 or any(part in {".", ".."} for part in _segments(match["path"])):
        raise _no_url(text, schemes)
    host = match["host"].lower()
    if host.startswith("["):
        host = _ipv6(host[1:-1], text, schemes)
    return StrangersUrl(scheme, host, port, match["path"])


def _segments(path: str) -> list[str]:
    return unquote(path).replace("\\", "/").split("/")


def _ipv6(host: str, text: str, schemes: frozenset[str]) -> str:
    try:
        return str(IPv6Address(host))
    except ValueError as exc:
        raise _no_url(text, schemes) from exc


def _no_url(text: str, schemes: frozenset[str]) -> AddressRefused:
    shown = one_line(text, _MAX_SHOWN_CHARS)
    return AddressRefused(
        f"{shown} is not {' or '.join(sorted(schemes))}://host[:port][/path] without user, query "
        "and fragment, so it is not fetched"
    )


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine, by its name or number alone, in any spelling of it that
    systems connect by (`127.1`, `2130706433`).
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        if _NUMBER.fullmatch(name):
            name = socket.inet_ntoa(socket.inet_aton(name))
        address = ip_address(name.strip("[]"))
    except (ValueError, OSError):
        return False
    inner = address if isinstance(address, IPv4Address) else address.ipv4_mapped or address
    return inner.is_loopback


def address_group(host: str) -> str:
    """Under what a remote address is counted: IPv6 by its /64; what is no address as it is."""
    try:
        parsed = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((int(parsed), _IPV6_NETWORK_BITS), strict=False))
