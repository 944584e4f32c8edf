"""Multiaddrs: parsing what settings and peers say."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

from libp2p.peer.peerinfo import InvalidAddrError, PeerInfo, info_from_p2p_addr
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from fabstir.p2p.config import P2PConfig
from fabstir.p2p.limits import MAX_PARSED_ADDRESSES, MAX_PROVIDER_ADDRESSES
from fabstir.primitives.errors import AddressRefused, ConfigError
from fabstir.web.reach import Reach

_PEER = "/p2p/"
_RELAYED = "/p2p-circuit"


def parse_addresses(raw: Iterable[bytes]) -> list[Multiaddr]:
    """Addresses as peers send them, without their /p2p part; what cannot be dialled is left out."""
    found: dict[Multiaddr, None] = {}
    for item in islice(raw, MAX_PARSED_ADDRESSES):
        try:
            text = str(Multiaddr(item))
            address = Multiaddr(text.split(_PEER)[0])
        except (MultiaddrError, ValueError):
            continue
        if address.to_bytes() and _RELAYED not in text:
            found[address] = None
    return list(found)[:MAX_PROVIDER_ADDRESSES]


async def checked_address(address: Multiaddr, reach: Reach) -> Multiaddr:
    """A stranger's address with an IP address in it that may be dialled, in place of a name.

    Raises:
        AddressRefused: it may not, or the multiaddr names no host.
        OSError: the name is not known.
    """
    protocol, host, *rest = str(address).lstrip("/").split("/")
    if protocol not in {"ip4", "ip6", "dns", "dns4", "dns6"}:
        raise AddressRefused(f"{address} begins with no IP address and no name")
    port = int(rest[1]) if len(rest) > 1 and rest[1].isdecimal() else 0
    wanted = {"dns4": "ip4", "dns6": "ip6"}.get(protocol)
    for found in await reach.addresses(host, port):
        family = "ip6" if ":" in found else "ip4"
        if wanted in {None, family}:
            return Multiaddr("/".join(["", family, found, *rest]))
    raise OSError(f"{host} has no address for {protocol}")


def parse_texts(addresses: Iterable[str]) -> list[Multiaddr]:
    """Addresses as text, treated as those that peers send."""
    found: list[bytes] = []
    for text in addresses:
        with suppress(MultiaddrError, ValueError):
            found.append(Multiaddr(text).to_bytes())
    return parse_addresses(found)


def parse_peer(address: str, setting: str) -> PeerInfo:
    """A multiaddr that ends in /p2p/<peer id>.

    Raises:
        ConfigError: it does not, or is no multiaddr.
    """
    try:
        return info_from_p2p_addr(Multiaddr(address))
    except (MultiaddrError, InvalidAddrError, ValueError) as exc:
        raise ConfigError(
            f"{setting}: {address!r} is not a multiaddr that ends in /p2p/<peer id> ({exc}); "
            "it looks like /ip4/203.0.113.7/tcp/9000/p2p/12D3Koo..."
        ) from exc


def listen_addresses(config: P2PConfig) -> list[Multiaddr]:
    """What the node listens on. Raises ConfigError: listen_host is not an IP address."""
    family = "ip6" if ":" in config.listen_host else "ip4"
    try:
        tcp = Multiaddr(f"/{family}/{config.listen_host}/tcp/{config.tcp_port}")
        if config.ws_port is None:
            return [tcp]
        return [tcp, Multiaddr(f"/{family}/{config.listen_host}/tcp/{config.ws_port}/ws")]
    except (MultiaddrError, ValueError) as exc:
        raise ConfigError(
            f"p2p.listen {config.listen_host!r} with port {config.tcp_port} is not an IP "
            "address and port to listen on: use 127.0.0.1, 0.0.0.0 or an address of this machine"
        ) from exc


def advertised_addresses(
    listening: Iterable[Multiaddr], announce: Iterable[str]
) -> list[Multiaddr]:
    """What others are told to dial: the announced addresses first, then those listened on, with
    each interface's address in place of 0.0.0.0.

    Raises:
        ConfigError: an announced address is no multiaddr.
    """
    try:
        announced = [Multiaddr(text.split(_PEER)[0]) for text in announce]
    except (MultiaddrError, ValueError) as exc:
        raise ConfigError(f"p2p.announce holds something that is no multiaddr: {exc}") from exc
    concrete = [each for address in listening for each in _on_each_interface(address)]
    return list(dict.fromkeys(announced + concrete))


def _on_each_interface(address: Multiaddr) -> list[Multiaddr]:
    """An address of 0.0.0.0 or :: once per interface; others as they are."""
    family, host, rest = str(address)[1:].split("/", 2)
    if host not in {"0.0.0.0", "::"}:
        return [address]
    port = rest.split("/")[1]
    return [
        Multiaddr(f"/{family}/{each.value_for_protocol(family)}/{rest}")
        for each in expand_wildcard_address(Multiaddr(f"/{family}/{host}/tcp/{port}"))
    ]
