"""What portals answer, parsed: any bytes give a value or RemoteProtocolError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fabstir.primitives.cid import BlobId
from fabstir.primitives.encoding import decode_multibase, encode_multibase
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.fields import Fields
from fabstir.s5.formats.account import CHALLENGE_BYTES
from fabstir.s5.formats.limits import MAX_WIRE_PARTS
from fabstir.s5.formats.multikey import decode_multikey, encode_multikey
from fabstir.s5.formats.registry import SignedEntry

MAX_TOKEN_CHARS: Final = 1024
"""Longest account token: it goes into a header of every request."""

_MAX_URL_CHARS = 2048
_MAX_LOCATIONS = 256
_MAX_NODES = 64
_UINT64 = 1 << 64
_FIRST_WRONG_SIZE = 1 << 31
_TOKEN = re.compile(r"[!-:<-~]+")
"""What a header may carry: visible ASCII, and no semicolon, which ends a cookie."""
_COOKIE = re.compile(r"(?:^|[;,]\s*)s5-auth-token=([^;,\s]+)")


def encode_base64url(data: bytes) -> str:
    """Without padding."""
    return encode_multibase(data, "u")[1:]


def decode_base64url(text: str, what: str) -> bytes:
    """Raises RemoteProtocolError: not base64url, or with padding."""
    try:
        return decode_multibase("u" + text)
    except ValueError as exc:
        raise RemoteProtocolError(f"{what} is not base64url: {exc}") from exc


def parse_cid(text: str) -> BlobId:
    """A blob identifier in any base. Raises RemoteProtocolError."""
    try:
        return BlobId.decode(text)
    except ValueError as exc:
        raise RemoteProtocolError(f"{text[:80]!r} names no blob: {exc}") from exc


def parse_uploaded(body: bytes) -> BlobId:
    """The identifier with which an upload is answered."""
    return parse_cid(Fields.parse(body, "the answer to an upload").text("cid", "CID", limit=256))


def is_same_blob(claimed: BlobId, ours: BlobId) -> bool:
    """Whether a portal means the blob that we sent: its hash decides.

    The size must be right too, except from 2 GiB on, where S5.js computes another one (a signed
    32-bit shift: 2 GiB becomes 2^64 - 2^31, 4 GiB becomes 0).
    """
    if claimed.multihash != ours.multihash:
        return False
    return claimed.size == ours.size or ours.size >= _FIRST_WRONG_SIZE


def parse_challenge(body: bytes) -> bytes:
    """The 32 bytes to be signed."""
    text = Fields.parse(body, "a challenge").text("challenge", limit=64)
    challenge = decode_base64url(text, "a challenge")
    if len(challenge) != CHALLENGE_BYTES:
        raise RemoteProtocolError(f"challenges have {CHALLENGE_BYTES} bytes, not {len(challenge)}")
    return challenge


def parse_token(cookies: list[str], body: bytes) -> str:
    """The account's token, of the cookie `s5-auth-token` or else of the JSON field `authToken`."""
    found = (match[1] for cookie in cookies if (match := _COOKIE.search(cookie)))
    token = next(found, None)
    if token is None:
        token = Fields.parse(body, "the answer to a login").text("authToken", "auth_token")
    if len(token) > MAX_TOKEN_CHARS or not _TOKEN.fullmatch(token):
        raise RemoteProtocolError(
            f"account tokens are at most {MAX_TOKEN_CHARS} visible characters of ASCII"
        )
    return token


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStats:
    """An account at a portal.

    Attributes:
        used_bytes: what is pinned there; None: the portal does not say.
        limit_bytes: the most that may be; None: the portal does not say.
    """

    tier: str
    used_bytes: int | None
    limit_bytes: int | None
    is_restricted: bool
    quota_exceeded: bool


def parse_account(body: bytes) -> AccountStats:
    """The answer of /s5/account and of /s5/account/stats, which has the sizes too."""
    fields = Fields.parse(body, "an account")
    tier, stats = fields.optional_child("tier"), fields.optional_child("stats")
    total = stats.optional_child("total") if stats else None
    name = tier.optional_text("name", limit=64) if tier else None
    return AccountStats(
        tier=name or "",
        used_bytes=total.optional_integer("usedStorage", limit=_UINT64) if total else None,
        limit_bytes=tier.optional_integer("storageLimit", limit=_UINT64) if tier else None,
        is_restricted=fields.flag("isRestricted"),
        quota_exceeded=fields.flag("quotaExceeded"),
    )


def registry_json(entry: SignedEntry) -> Mapping[str, str | int]:
    """What POST /s5/registry takes."""
    return {
        "pk": encode_base64url(encode_multikey(entry.public_key)),
        "revision": entry.revision,
        "data": encode_base64url(entry.data),
        "signature": encode_base64url(entry.signature),
    }


def parse_registry(body: bytes, public_key: bytes, crypto: Crypto) -> SignedEntry:
    """A verified entry of the key that was asked for.

    Raises:
        RemoteProtocolError: also where it is another key's, or not signed by it.
    """
    fields = Fields.parse(body, "a registry entry")
    texts = {name: fields.text(name, limit=128) for name in ("pk", "data", "signature")}
    raw = {
        name: decode_base64url(text, f"a registry entry's {name}") for name, text in texts.items()
    }
    if decode_multikey(raw["pk"]) != public_key:
        raise RemoteProtocolError("the registry entry is of another key than was asked for")
    entry = SignedEntry(
        public_key=public_key,
        revision=fields.integer("revision", limit=_UINT64),
        data=raw["data"],
        signature=raw["signature"],
    )
    entry.verify(crypto)
    return entry


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationAnswer:
    """Where a portal says that a blob is. Nothing of it is signed: only a hint.

    Attributes:
        type: 0 archive, 3 file, 5 full, 7 bridge.
        expiry: Unix seconds.
    """

    type: int
    parts: tuple[str, ...]
    expiry: int
    node_id: str


def parse_locations(body: bytes) -> tuple[LocationAnswer, ...]:
    """The answer of /s5/debug/storage_locations/:hash."""
    fields = Fields.parse(body, "a list of storage locations")
    return tuple(
        LocationAnswer(
            type=item.integer("type", limit=256),
            parts=item.texts("parts", limit=MAX_WIRE_PARTS, chars=_MAX_URL_CHARS),
            expiry=item.integer("expiry", limit=_UINT64),
            node_id=item.text("nodeId", limit=128),
        )
        for item in fields.children("locations", limit=_MAX_LOCATIONS)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalNode:
    """A node that a portal names for P2P connections."""

    id: str
    uris: tuple[str, ...]


def parse_nodes(body: bytes) -> tuple[PortalNode, ...]:
    """The answer of /s5/p2p/nodes."""
    fields = Fields.parse(body, "a list of nodes")
    return tuple(
        PortalNode(
            id=item.text("id", limit=128),
            uris=item.texts("uris", limit=MAX_WIRE_PARTS, chars=_MAX_URL_CHARS),
        )
        for item in fields.children("nodes", limit=_MAX_NODES)
    )


def parse_version(body: bytes) -> str:
    """The answer of /s5/version."""
    return Fields.parse(body, "a version").text("node", "version", limit=64)
