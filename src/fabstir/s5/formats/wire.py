"""The messages between S5 nodes over `/s5/p2p`, one in each WebSocket frame.

Questions and the handshake are msgpack values, one after another; storage locations (05), registry
entries (07) and stream messages (08) are fixed binary forms that carry their own signature. The
handshake's answer and announcements of peers come in a signed envelope (10). What a node does not
know it passes over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, Self

from fabstir.primitives.cid import HashType, Multihash
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats._items import Items, pack
from fabstir.s5.formats.bytes_reader import Reader
from fabstir.s5.formats.limits import (
    MAX_ANNOUNCED_PEERS,
    MAX_CHALLENGE_BYTES,
    MAX_NETWORK_BYTES,
    MAX_QUERY_TYPES,
    MAX_URI_BYTES,
    MAX_WIRE_BYTES,
    MAX_WIRE_PARTS,
)
from fabstir.s5.formats.multikey import MULTIKEY_BYTES, decode_multikey, encode_multikey
from fabstir.s5.formats.registry import SignedEntry, StreamMessage

FEATURES: Final = 3
"""The features that every node says it has; Dart nodes refuse any other number."""

ANSWERS_ABSENT: Final = 1
"""The extension that this project's nodes have: they answer what they do not have with `Absent`,
so that nobody waits for a deadline. Other nodes read no further than the URIs of a handshake."""

RELAYS: Final = 2
"""The extension of this project's nodes that take a `Trace` behind a question: they ask their own
peers too, and say with `Refused` which registry entry they do not keep."""

MAX_HOPS: Final = 3
"""How often a question is passed on: networks of people and their machines are not wider."""

_TRACE_BYTES = 8
_MAX_REASON_BYTES = 512
_LEGACY_BLAKE3 = 0x1F
_MULTIHASH_BYTES = 33
_SIGNATURE_BYTES = 64
_AFTER = 1
"""The key of a stream query's option: only messages above this revision."""


class Method(IntEnum):
    """The first value of a message."""

    HANDSHAKE_OPEN = 1
    HANDSHAKE_DONE = 2
    HASH_QUERY = 4
    STORAGE_LOCATION = 5
    REGISTRY_ENTRY = 7
    ANNOUNCE_PEERS = 8
    """Inside a signed envelope; outside it, 8 is a stream message."""
    SIGNED = 10
    REGISTRY_QUERY = 13
    STREAM_QUERY = 0x49
    ABSENT = 0x61
    """Ours: sent only to who said ANSWERS_ABSENT."""
    REFUSED = 0x62
    """Ours: sent only to who said RELAYS."""


class LocationType(IntEnum):
    """How a storage location gives a blob."""

    ARCHIVE = 0
    """Not at once: it must be asked for first."""
    FILE = 3
    """By URL, with ranges."""
    FULL = 5
    """By URL, and its BLAKE3 tree at the same URL with `.obao` behind it."""
    BRIDGE = 7
    """Through another network, not verified by the hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerHandshake:
    """The first message of either side: sign these bytes.

    Attributes:
        challenge: random, 1 to MAX_CHALLENGE_BYTES; S5.js sends 64 bytes, Dart nodes 32.
        network: None: the public one.
    """

    challenge: bytes
    network: str | None = None

    def encode(self) -> bytes:
        network = () if self.network is None else (self.network,)
        return pack(int(Method.HANDSHAKE_OPEN), self.challenge, *network)

    @classmethod
    def read(cls, items: Items) -> Self:
        challenge = items.binary("the challenge", low=1, high=MAX_CHALLENGE_BYTES)
        if items.is_at_end():
            return cls(challenge=challenge)
        network = items.text("the network", max_bytes=MAX_NETWORK_BYTES)
        return cls(challenge=challenge, network=network)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeDone:
    """The answer to a handshake, inside a signed envelope.

    Attributes:
        challenge: the other side's.
        uris: where this node can be dialled.
        extensions: bits of what it knows besides, such as ANSWERS_ABSENT.
    """

    challenge: bytes
    features: int = FEATURES
    uris: tuple[str, ...] = ()
    extensions: int = 0

    def encode(self) -> bytes:
        head = pack(int(Method.HANDSHAKE_DONE), self.challenge, self.features)
        extensions = (self.extensions,) if self.extensions else ()
        return head + pack(len(self.uris), *self.uris, *extensions)

    @classmethod
    def read(cls, items: Items) -> Self:
        challenge = items.binary("the challenge", low=1, high=MAX_CHALLENGE_BYTES)
        features = items.number("the features", below=1 << 32)
        uris = items.uris()
        extensions = 0 if items.is_at_end() else items.number("the extensions", below=1 << 32)
        return cls(challenge=challenge, features=features, uris=uris, extensions=extensions)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """A node, as another one knows it.

    Attributes:
        public_key: 32 bytes of ed25519, the node's id.
        uris: where it says that it can be dialled. Hearsay, until its handshake was checked.
    """

    public_key: bytes
    is_connected: bool
    uris: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncePeers:
    """The nodes that the sender is connected to, inside a signed envelope."""

    peers: tuple[PeerInfo, ...]

    def encode(self) -> bytes:
        head = pack(int(Method.ANNOUNCE_PEERS), len(self.peers))
        return head + b"".join(
            pack(encode_multikey(peer.public_key), peer.is_connected, len(peer.uris), *peer.uris)
            for peer in self.peers
        )

    @classmethod
    def read(cls, items: Items) -> Self:
        count = items.number("the number of peers", below=MAX_ANNOUNCED_PEERS + 1)
        return cls(
            peers=tuple(
                PeerInfo(
                    public_key=_read_key(items),
                    is_connected=items.flag("whether it is connected"),
                    uris=items.uris(),
                )
                for _ in range(count)
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownPeerMessage:
    """A message that this node does not know, and passes over."""

    method: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """An envelope whose signature was checked.

    Attributes:
        public_key: 32 bytes, the node that signed.
        body: what was signed; `message` is what it says.
    """

    public_key: bytes
    signature: bytes
    body: bytes
    message: HandshakeDone | AnnouncePeers | UnknownPeerMessage = field(compare=False)

    def encode(self) -> bytes:
        key = encode_multikey(self.public_key)
        return pack(int(Method.SIGNED), key, self.signature, self.body)

    @classmethod
    def read(cls, items: Items, crypto: Crypto) -> Self:
        public_key = _read_key(items)
        signature = items.binary("the signature", low=_SIGNATURE_BYTES, high=_SIGNATURE_BYTES)
        body = items.binary("the signed message", low=1, high=MAX_WIRE_BYTES)
        if not crypto.ed25519_verify(public_key, body, signature):
            raise RemoteProtocolError("a message of a peer is not signed by the key it names")
        message = _read_body(body)
        return cls(public_key=public_key, signature=signature, body=body, message=message)


def _read_body(body: bytes) -> HandshakeDone | AnnouncePeers | UnknownPeerMessage:
    items = Items(body, "a signed message of a peer")
    method = items.number("the method", below=1 << 32)
    if method == Method.HANDSHAKE_DONE:
        return HandshakeDone.read(items)
    if method == Method.ANNOUNCE_PEERS:
        return AnnouncePeers.read(items)
    return UnknownPeerMessage(method=method)


def sign_message(seed: bytes, message: HandshakeDone | AnnouncePeers, crypto: Crypto) -> Signed:
    """Put a message into a signed envelope of the node whose key is `seed`."""
    body = message.encode()
    return Signed(
        public_key=crypto.ed25519_public_key(seed),
        signature=crypto.ed25519_sign(seed, body),
        body=body,
        message=message,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What ties a question that nodes pass on together, so that it ends.

    Attributes:
        id: 8 random bytes of who asked first; a node that has seen it answers `Absent` at once.
        hops: how often it may still be passed on, at most MAX_HOPS.
    """

    id: bytes
    hops: int

    @classmethod
    def read(cls, items: Items) -> Self | None:
        """What stands behind a question; None: nothing, or what other nodes may put there."""
        if items.is_at_end():
            return None
        try:
            trace_id = items.binary("the trace", low=_TRACE_BYTES, high=_TRACE_BYTES)
            return cls(id=trace_id, hops=items.number("the hops", below=MAX_HOPS + 1))
        except RemoteProtocolError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class HashQuery:
    """Who has this blob?

    Attributes:
        types: the LocationTypes that the asker can use.
        legacy: whether the asker writes BLAKE3 as 1f; S5.js finds only answers that repeat it.
        trace: only to who said RELAYS.
    """

    hash: Multihash
    types: tuple[int, ...]
    legacy: bool = False
    trace: Trace | None = None

    @property
    def subject(self) -> bytes:
        """The multihash as the asker wrote it."""
        return _write_multihash(self.hash, legacy=self.legacy)

    def encode(self) -> bytes:
        head = pack(int(Method.HASH_QUERY), self.subject, list(self.types))
        return head + _pack_trace(self.trace)

    @classmethod
    def read(cls, items: Items) -> Self:
        raw = items.binary("the hash", low=_MULTIHASH_BYTES, high=_MULTIHASH_BYTES)
        types = items.numbers("the types", most=MAX_QUERY_TYPES, below=256)
        return cls(
            hash=_read_multihash(raw),
            types=types,
            legacy=raw[0] == _LEGACY_BLAKE3,
            trace=Trace.read(items),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLocation:
    """Where a blob can be fetched, as the node that says so signed it.

    Attributes:
        type: a LocationType, or one that is not known here.
        expiry: Unix seconds, after which it is not to be used.
        parts: the URL first.
        public_key: 32 bytes, the node's id.
        signature: 64 bytes, over everything before the key.
        legacy: whether the node wrote BLAKE3 as 1f: it is signed.
    """

    hash: Multihash
    type: int
    expiry: int
    parts: tuple[str, ...]
    public_key: bytes
    signature: bytes
    legacy: bool = False

    @property
    def subject(self) -> bytes:
        """The multihash as the question had it."""
        return _write_multihash(self.hash, legacy=self.legacy)

    def encode(self) -> bytes:
        return self._signed_part() + encode_multikey(self.public_key) + self.signature

    def _signed_part(self) -> bytes:
        texts = [part.encode() for part in self.parts]
        return b"".join(
            (
                bytes([Method.STORAGE_LOCATION]),
                self.subject,
                bytes([self.type]),
                self.expiry.to_bytes(4, "little"),
                bytes([len(texts)]),
                *(len(text).to_bytes(2, "little") + text for text in texts),
                b"\0",
            )
        )

    @classmethod
    def decode(cls, raw: bytes, crypto: Crypto) -> Self:
        """Read and verify the wire form; whether it has expired is for who knows the time.

        Raises:
            RemoteProtocolError: cut off, too long, too many parts, not UTF-8, or not signed by
                the key it names.
        """
        reader = Reader(raw, "a storage location")
        reader.expect(bytes([Method.STORAGE_LOCATION]))
        multihash = reader.take(_MULTIHASH_BYTES)
        kind = reader.number(1, "little")
        expiry = reader.number(4, "little")
        parts = _read_parts(reader)
        reader.expect(b"\0")
        public_key = decode_multikey(reader.take(MULTIKEY_BYTES))
        signature = reader.take(_SIGNATURE_BYTES)
        reader.end()
        location = cls(
            hash=_read_multihash(multihash),
            type=kind,
            expiry=expiry,
            parts=parts,
            public_key=public_key,
            signature=signature,
            legacy=multihash[0] == _LEGACY_BLAKE3,
        )
        if not crypto.ed25519_verify(public_key, location._signed_part(), signature):
            raise RemoteProtocolError("a storage location is not signed by the node it names")
        return location


def _read_parts(reader: Reader) -> tuple[str, ...]:
    count = reader.number(1, "little")
    if count > MAX_WIRE_PARTS:
        raise RemoteProtocolError(f"a storage location has more than {MAX_WIRE_PARTS} parts")
    parts: list[str] = []
    for _ in range(count):
        length = reader.number(2, "little")
        if length > MAX_URI_BYTES:
            raise RemoteProtocolError(
                f"a part of a storage location is longer than {MAX_URI_BYTES} bytes"
            )
        try:
            parts.append(reader.take(length).decode())
        except UnicodeDecodeError as exc:
            raise RemoteProtocolError("a part of a storage location is not UTF-8") from exc
    return tuple(parts)


def sign_location(
    seed: bytes,
    query: HashQuery,
    *,
    location_type: LocationType,
    expiry: int,
    parts: tuple[str, ...],
    crypto: Crypto,
) -> StorageLocation:
    """Answer a query: this node has the blob, there.

    Args:
        seed: the node's ed25519 seed.
        expiry: Unix seconds, below 2^32.
        parts: the URL first.

    Raises:
        ValueError: too many parts, one too long, or an expiry that is none.
    """
    if len(parts) > MAX_WIRE_PARTS or any(len(part.encode()) > MAX_URI_BYTES for part in parts):
        raise ValueError(
            f"a location has at most {MAX_WIRE_PARTS} parts of at most {MAX_URI_BYTES} bytes"
        )
    if not 0 <= expiry < 1 << 32:
        raise ValueError(f"{expiry} is not a Unix time in seconds below 2^32")
    unsigned = StorageLocation(
        hash=query.hash,
        type=location_type,
        expiry=expiry,
        parts=parts,
        public_key=crypto.ed25519_public_key(seed),
        signature=b"",
        legacy=query.legacy,
    )
    signature = crypto.ed25519_sign(seed, unsigned._signed_part())  # pyright: ignore[reportPrivateUsage] - same module
    return replace(unsigned, signature=signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryQuery:
    """What is the newest registry entry of this key (32 bytes)?

    Attributes:
        trace: only to who said RELAYS.
    """

    public_key: bytes
    trace: Trace | None = None

    def encode(self) -> bytes:
        head = pack(int(Method.REGISTRY_QUERY), encode_multikey(self.public_key))
        return head + _pack_trace(self.trace)

    @classmethod
    def read(cls, items: Items) -> Self:
        return cls(public_key=_read_key(items), trace=Trace.read(items))


def _pack_trace(trace: Trace | None) -> bytes:
    return b"" if trace is None else pack(trace.id, trace.hops)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamQuery:
    """Send me this stream's messages, those that come later too.

    Attributes:
        after: only revisions above this one; None: all.
    """

    public_key: bytes
    after: int | None = None

    def encode(self) -> bytes:
        option = () if self.after is None else ({_AFTER: self.after},)
        return pack(int(Method.STREAM_QUERY), encode_multikey(self.public_key), *option)

    @classmethod
    def read(cls, items: Items) -> Self:
        public_key = _read_key(items)
        if items.is_at_end():
            return cls(public_key=public_key)
        after = items.map("the options").get(_AFTER)
        if after is not None and (type(after) is not int or not 0 <= after < 1 << 64):
            raise RemoteProtocolError("a stream query begins after no revision of 64 bits")
        return cls(public_key=public_key, after=after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The sender has not what was asked for.

    Attributes:
        subject: 33 bytes as the question had them: a multihash, or a registry key.
        trace_id: of the question, 8 bytes; None: it had none.
    """

    subject: bytes
    trace_id: bytes | None = None

    def encode(self) -> bytes:
        trace = () if self.trace_id is None else (self.trace_id,)
        return pack(int(Method.ABSENT), self.subject, *trace)

    @classmethod
    def read(cls, items: Items) -> Self:
        subject = items.binary("the subject", low=_MULTIHASH_BYTES, high=_MULTIHASH_BYTES)
        if items.is_at_end():
            return cls(subject=subject)
        trace_id = items.binary("the trace", low=_TRACE_BYTES, high=_TRACE_BYTES)
        return cls(subject=subject, trace_id=trace_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The sender does not keep a registry entry that it was told of.

    Attributes:
        public_key: 32 bytes, the entry's.
        reason: for people, at most 512 bytes.
    """

    public_key: bytes
    reason: str

    def encode(self) -> bytes:
        reason = self.reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
        return pack(int(Method.REFUSED), encode_multikey(self.public_key), reason)

    @classmethod
    def read(cls, items: Items) -> Self:
        public_key = _read_key(items)
        return cls(
            public_key=public_key, reason=items.text("the reason", max_bytes=_MAX_REASON_BYTES)
        )


PeerMessage = (
    PeerHandshake
    | Signed
    | HashQuery
    | StorageLocation
    | SignedEntry
    | StreamMessage
    | RegistryQuery
    | StreamQuery
    | Absent
    | Refused
    | UnknownPeerMessage
)
"""What one frame says. Everything signed was verified when it was decoded."""


def decode_message(frame: bytes, crypto: Crypto) -> PeerMessage:
    """Read one frame.

    Raises:
        RemoteProtocolError: too long, cut off, out of bounds, or badly signed. Never any other
            error, whatever the bytes.
    """
    if len(frame) > MAX_WIRE_BYTES:
        raise RemoteProtocolError(f"a message of a peer is longer than {MAX_WIRE_BYTES} bytes")
    match frame[:1]:
        case b"\x05":
            return StorageLocation.decode(frame, crypto)
        case b"\x07":
            return SignedEntry.decode(frame, crypto)
        case b"\x08":
            return StreamMessage.decode(frame, crypto)
        case _:
            return _read_items(Items(frame, "a message of a peer"), crypto)


def _read_items(items: Items, crypto: Crypto) -> PeerMessage:
    match items.number("the method", below=1 << 32):
        case Method.HANDSHAKE_OPEN:
            return PeerHandshake.read(items)
        case Method.SIGNED:
            return Signed.read(items, crypto)
        case Method.HASH_QUERY:
            return HashQuery.read(items)
        case Method.REGISTRY_QUERY:
            return RegistryQuery.read(items)
        case Method.STREAM_QUERY:
            return StreamQuery.read(items)
        case Method.ABSENT:
            return Absent.read(items)
        case Method.REFUSED:
            return Refused.read(items)
        case method:
            return UnknownPeerMessage(method=method)


def _read_key(items: Items) -> bytes:
    return decode_multikey(items.binary("a public key", low=MULTIKEY_BYTES, high=MULTIKEY_BYTES))


def _write_multihash(blob: Multihash, *, legacy: bool) -> bytes:
    is_legacy = legacy and blob.type is HashType.BLAKE3
    return bytes([_LEGACY_BLAKE3 if is_legacy else blob.type]) + blob.digest


def _read_multihash(raw: bytes) -> Multihash:
    try:
        return Multihash.from_bytes(raw)
    except ValueError as exc:
        raise RemoteProtocolError(str(exc)) from exc
