"""Peers' URLs with the node's id in them, and the URLs of what they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx

from fabstir.primitives.encoding import decode_multibase, encode_multibase
from fabstir.primitives.errors import AddressRefused, ConfigError, RemoteProtocolError
from fabstir.s5.formats.multikey import decode_multikey, encode_multikey
from fabstir.web.addresses import parse_strangers_url

_SOCKET_SCHEMES: Final[set[str]] = {"ws", "wss"}
_HTTP_SCHEMES: Final[set[str]] = {"http", "https"}
_DOORS: Final = {"ws": "http", "wss": "https"}


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
    """Whether a location's part can be fetched: http or https, a host, no user, no query."""
    try:
        parsed = parse_strangers_url(text)
        _ = httpx.URL(text).host
    except (AddressRefused, httpx.InvalidURL, ValueError):  # of idna: http://xn--/
        return False
    return bool(parsed.host)


def _split(text: str, schemes: set[str]) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    is_plain = text.isascii() and text.isprintable() and " " not in text
    return parts if is_usable and is_plain else None


def http_origin(url: str) -> str:
    """The origin of a node's HTTP door, by a URL of it or its WebSocket; "" where it is none."""
    try:
        parsed = parse_strangers_url(url, frozenset(_SOCKET_SCHEMES | _HTTP_SCHEMES))
    except AddressRefused:
        return ""
    return parsed.with_scheme(_DOORS.get(parsed.scheme, parsed.scheme))
