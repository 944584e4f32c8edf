"""Where blobs and registry entries are: this machine's node, portals, or another's bridge.

The file system, the caches and the commands are written against these two ports; `node.LocalBlobs`
and `portals.PortalPool` implement them, over a disk and over HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Protocol

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.s5.formats.registry import SignedEntry


class Blobs(Protocol):
    """Content by its hash. What comes back is verified, or it does not come back.

    `put` keeps a blob until `release`: every owner holds its own pins, so releasing takes nothing
    from anybody else. Everything is durable when a call returns.
    """

    async def put(
        self, data: bytes | AsyncIterable[bytes], *, reason: str, may_use_reserve: bool = False
    ) -> BlobId:
        """Store and pin.

        Args:
            data: whole, or in pieces of any size; a stream is never held in memory.
            reason: why it is kept, for people: "file", "directory", "proof".
            may_use_reserve: whether it may have the room that a full disk keeps for removals: what
                takes the place of something, as a directory with fewer names does.

        Raises:
            StorageFull, QuotaExceeded: nothing is kept.
            PortalError: no portal took it.
        """
        ...

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """A whole blob, verified against its hash.

        Raises:
            NotFound: nobody has it.
            CorruptBlob: only damaged copies are there.
            StorageError: it is longer than `max_bytes`.
            PortalError: where it may be, nobody answers.
        """
        ...

    def read(self, blob: BlobId, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """A part of a blob in pieces, each verified before it is yielded.

        Args:
            start, end: bytes; `end` is not included, None is the blob's end.

        Raises:
            As `get`, from the iteration.
        """
        ...

    async def release(self, blobs: Iterable[Multihash]) -> None:
        """Drop this owner's pins; what nobody pins is collected later. Unknown ones are ignored."""
        ...

    async def relabel(self, blobs: Iterable[Multihash], *, reason: str) -> None:
        """Say anew why this owner keeps blobs. Those that it has not pinned are passed over; where
        no reasons are kept, nothing happens."""
        ...


class EntryRegistry(Protocol):
    """Signed, revised pointers by public key."""

    async def get(self, public_key: bytes) -> SignedEntry | None:
        """The newest entry that is known, verified; None: there is none.

        Args:
            public_key: 32 bytes of ed25519.

        Raises:
            PortalError: nobody who might know answers.
        """
        ...

    async def set(self, entry: SignedEntry) -> None:
        """Publish an entry, durably.

        Raises:
            WriteConflict: an entry of this or a higher revision is there already (the same bytes
                again are no conflict).
            PortalError: no portal took it.
        """
        ...
