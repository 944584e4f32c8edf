"""Peers' URLs with the node's id in them, and addresses that only somebody near may name."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx

from fabstir.primitives.encoding import decode_multibase, encode_multibase
from fabstir.primitives.errors import ConfigError, RemoteProtocolError
from fabstir.protocol.s5.multikey import decode_multikey, encode_multikey

_SOCKET_SCHEMES: Final[set[str]] = {"ws", "wss"}
_HTTP_SCHEMES: Final[set[str]] = {"http", "https"}


@dataclass(frozen=True, slots=True)
class PeerUrl:
    """Where a peer is dialled.

    Attributes:
        url: without user information.
        public_key: 32 bytes, whose handshake is expected; None: anybody's.
    """

    url: str
    public_key: bytes | None


def parse_peer_url(text: str) -> PeerUrl:
    """`ws[s]://[ID@]host[:port]/s5/p2p`, where ID is the node's key in base 58 ("z...").

    Raises:
        ConfigError: another scheme, no host, or an id that is none.
    """
    parts = _split(text, _SOCKET_SCHEMES)
    if parts is None:
        raise ConfigError(
            f"{text!r} is no peer of S5: write ws://host:port/s5/p2p or wss://host/s5/p2p"
        )
    user, at, host = parts.netloc.rpartition("@")
    url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    if not at:
        return PeerUrl(url, None)
    try:
        return PeerUrl(url, decode_multikey(decode_multibase(user)))
    except (ValueError, RemoteProtocolError) as exc:
        raise ConfigError(f"{user!r} in {url} is no node id of S5: {exc}") from exc


def node_id(public_key: bytes) -> str:
    """A node's key as people and URLs write it: base 58, "z..."."""
    return encode_multibase(encode_multikey(public_key), "z")


def is_http_url(text: str) -> bool:
    """Whether a location's part can be fetched: http or https, a host, no user information."""
    parts = _split(text, _HTTP_SCHEMES)
    if parts is None or "@" in parts.netloc:
        return False
    try:
        url = httpx.URL(text)
        _ = url.host
    except (httpx.InvalidURL, ValueError):  # of idna: http://xn--/
        return False
    # Who checks the host and who connects to it must read the same one.
    return url.raw_host == (parts.hostname or "").encode()


def _split(text: str, schemes: set[str]) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    is_plain = text.isascii() and text.isprintable() and " " not in text
    return parts if is_usable and is_plain else None


def is_near(url: str) -> bool:
    """Whether a URL names this machine or its own network.

    Only peers that are near themselves may name such addresses: a stranger's location must not
    send this node to a service behind its firewall. Names that resolve to such addresses are not
    seen here; what they answer is dropped for its hash, as everything else.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:
        # 127.1 and 2130706433 are addresses too, to the resolver
        return host.rpartition(".")[2][:1].isdigit()
