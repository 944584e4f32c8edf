"""The services that the routes of an S5 node call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from fabstir.primitives.cid import Multihash
from fabstir.primitives.encoding import Json
from fabstir.protocol.crypto import Crypto
from fabstir.s5.cache.outboards import Outboards
from fabstir.s5.formats.wire import StorageLocation
from fabstir.s5.fs import FileSystem
from fabstir.s5.identities.accounts import Accounts
from fabstir.s5.peers import MessageConnection, Offer
from fabstir.s5.ports import Blobs, EntryRegistry
from fabstir.s5.store import BlobStore
from fabstir.s5.transfer.resumable import ResumableUploads
from fabstir.web.bodies import BodyLimits
from fabstir.web.rates import Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(BodyLimits):
    """What one client may do to the node.

    Attributes:
        max_upload_bytes: longest blob that is taken.
        write_timeout: seconds in which a download must take 64 KiB.
        uploads_per_caller: uploads of one account at once. Each holds some 3 MiB.
        waiting_uploads: further ones of one account that wait for those. They are not read, and
            hold a connection.
        upload_wait: how long they do.
        new_keys_per_second, new_key_burst: registry keys that one account brings: some 250 bytes of
            disk each, for good.
        requests_per_second, request_burst: anonymous calls of one remote address.
        entries_per_second, entry_burst: registrations and logins of one remote address.
        fetched_bytes: the most that the node fetches from elsewhere for an anonymous call.
        num_addresses: remote addresses that are told apart; some 200 bytes each.
    """

    max_upload_bytes: int = 1 << 40
    write_timeout: float = 60.0
    uploads_per_caller: int = 16
    waiting_uploads: int = 512
    upload_wait: float = 30.0
    new_keys_per_second: float = 10.0
    new_key_burst: int = 100_000
    requests_per_second: float = 200.0
    request_burst: int = 2000
    entries_per_second: float = 2.0
    entry_burst: int = 60
    fetched_bytes: int = 256 << 20
    num_addresses: int = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class S5Services:
    """What the doors of the S5 node translate to.

    Attributes:
        store: what is on this disk, for uploads, pins and blobs that are here.
        blobs: this node with its peers and portals, for blobs that are not.
        registry: this node's, with what its peers and portals know.
        own_registry: what is on this disk only, for nodes that ask each other.
        files: the owner's file system, behind /s5/fs.
        find: where peers say that a blob is: `Peers.find`.
        place: where a blob can be fetched now: `Peers.place`.
        offer: where it is here, as peers are told; None: it is not.
        serve_peer: the P2P protocol over one connection, until it is closed: says why, or "".
        node_id: 32 bytes of ed25519, this node's key on the P2P network.
        p2p_uris: WebSocket URLs by which other nodes reach it.
        health: what GET /health answers.
        version: of this software.
        authorities: every `host[:port]` by which this node is reached.
        is_public: whether strangers may connect. If not, pages of other origins may only read.
        public_url: what `s5.url` says, without a slash at its end; "": nothing.
        is_secure: whether it is reached by https, so that cookies are kept to it.
    """

    store: BlobStore
    blobs: Blobs
    registry: EntryRegistry
    own_registry: EntryRegistry
    files: FileSystem
    accounts: Accounts
    uploads: ResumableUploads
    outboards: Outboards
    find: Callable[[Multihash], Awaitable[Sequence[StorageLocation]]]
    place: Callable[[Multihash], Awaitable[StorageLocation | None]]
    offer: Callable[[Multihash], Awaitable[Offer | None]]
    serve_peer: Callable[[MessageConnection], Awaitable[str]]
    node_id: bytes
    p2p_uris: tuple[str, ...]
    health: Callable[[], Awaitable[Json]]
    version: str
    authorities: frozenset[str]
    is_public: bool
    is_secure: bool
    crypto: Crypto = field(repr=False)
    limits: Limits = field(default_factory=Limits)
    public_url: str = ""

    def upload_queue(self) -> Queue:
        """Who may upload now, by account; each door has one."""
        limits = self.limits
        return Queue(
            limits.uploads_per_caller,
            "uploads",
            max_waiting=limits.waiting_uploads,
            seconds=limits.upload_wait,
        )
