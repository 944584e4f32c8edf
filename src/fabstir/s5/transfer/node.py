"""A node of S5: what this disk has first, then peers, then portals.

Whatever comes from elsewhere is verified on its way into the store, kept there for a while (until
the next collection, which spares what is young), and read from there. Many readers of one blob
that is not here yet wait for one fetch.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Hashable,
    Iterable,
    Sequence,
)
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

import anyio

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import (
    CorruptBlob,
    NotFound,
    PortalUnavailable,
    QuotaExceeded,
    RegistryFull,
    StorageError,
    StorageFull,
    WriteConflict,
)
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.ports import EntryRegistry
from fabstir.s5.store import BlobStore, LocalRegistry

K = TypeVar("K", bound=Hashable)

_logger = logging.getLogger(__name__)

FETCHED: Final = "fetched"
"""Owner and reason of what came from elsewhere, while it is being written."""

MISSING_SECONDS = 10.0
"""How long "nobody has it" is believed: a directory that names a lost blob is read many times."""

MAX_MISSING = 4096
"""Blobs of which that is remembered: some 400 KiB."""

FRESH_SECONDS = 2.0
"""How long a registry entry is used before others are asked for a newer one."""

REGISTRY_TIMEOUT = 5.0
"""Seconds that others have for their registry entry; without it ours is used."""

MAX_FRESH = 4096


class RemoteBlobs(Protocol):
    """Where else a blob may be: peers or portals. What it gives is verified."""

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """As of `ports.Blobs`."""
        ...

    def read(self, blob: BlobId, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As of `ports.Blobs`."""
        ...


@runtime_checkable
class FileSource(RemoteBlobs, Protocol):
    """A source that has some blobs as files, which the store takes over without a copy."""

    async def fetch(self, blob: BlobId) -> Path | None:
        """The whole blob, verified: a file that is the caller's. None: `read` it instead.

        Raises:
            As `ports.Blobs.read`.
        """
        ...


class S5Node:
    """One store, and all who have what it has not."""

    def __init__(
        self,
        store: BlobStore,
        sources: Sequence[RemoteBlobs],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._sources = sources
        self._running: dict[Multihash, anyio.Event] = {}
        self._missing = _Recent[Multihash](MAX_MISSING, MISSING_SECONDS, clock)

    def blobs(self, owner: str) -> NodeBlobs:
        """This node as one owner sees it."""
        return NodeBlobs(self, owner)

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """As `ports.Blobs.get`. A copy here that has rotted is replaced by a sound one."""
        damaged: CorruptBlob | None = None
        try:
            return await self.store.get(blob, max_bytes=max_bytes)
        except NotFound:
            pass
        except CorruptBlob as error:
            damaged = error
        async with self._alone(blob):
            if damaged is None and await self.store.size(blob) is not None:
                return await self.store.get(blob, max_bytes=max_bytes)
            return await self._get_elsewhere(blob, max_bytes, damaged)

    async def bring(self, blob: BlobId) -> None:
        """Have a blob of any length here; nothing of it is held in memory.

        Raises:
            As `ports.Blobs.read`.
        """
        async with self._alone(blob.multihash):
            if await self.store.size(blob.multihash) is None:
                await self._bring_from_elsewhere(blob, await self._damage(blob.multihash))

    async def read(
        self, blob: BlobId, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes]:
        """As `ports.Blobs.read`; a blob that is not here is brought here as a whole first.

        Rot that shows on the way is replaced from elsewhere, and the read goes on behind it.
        """
        await self.bring(blob)
        try:
            async for piece in self.store.read(blob.multihash, start, end):
                yield piece
                start += len(piece)
        except CorruptBlob as error:
            async with self._alone(blob.multihash):
                await self._bring_from_elsewhere(blob, error)
        else:
            return
        async for piece in self.store.read(blob.multihash, start, end):
            yield piece

    async def mend(self, blob: BlobId) -> None:
        """Replace a copy that has rotted by one from elsewhere.

        Raises:
            CorruptBlob: nobody has a sound one either.
            PortalError: who may have one does not answer.
        """
        async with self._alone(blob.multihash):
            await self._bring_from_elsewhere(blob, CorruptBlob(blob.encode(), "this node's store"))

    async def _damage(self, blob: Multihash) -> CorruptBlob | None:
        """What a read of a marked blob says; None: it is not here at all."""
        try:
            async for _ in self.store.read(blob, 0, 0):
                pass
        except NotFound:
            return None
        except CorruptBlob as error:
            return error
        return None

    def _alone(self, blob: Multihash) -> _Turn:
        return _Turn(self._running, blob)

    async def _get_elsewhere(
        self, blob: Multihash, max_bytes: int, damaged: CorruptBlob | None
    ) -> bytes:
        failures = self._begin(blob, damaged)
        for source in self._sources:
            try:
                data = await source.get(blob, max_bytes=max_bytes)
            except (StorageFull, QuotaExceeded):
                raise  # it is our disk, whatever the source
            except StorageError as error:
                failures.add(source, error)
            else:
                await self._keep(blob, data)
                return data
        raise self._conclude(blob, failures)

    async def _bring_from_elsewhere(self, blob: BlobId, damaged: CorruptBlob | None) -> None:
        failures = self._begin(blob.multihash, damaged)
        for source in self._sources:
            try:
                await self._take(blob, source)
            except (StorageFull, QuotaExceeded):
                raise
            except StorageError as error:
                failures.add(source, error)
            else:
                return
        raise self._conclude(blob.multihash, failures)

    def _begin(self, blob: Multihash, damaged: CorruptBlob | None) -> _Failures:
        if damaged is None and blob in self._missing:
            raise NotFound(f"neither this node nor anybody it knows has blob {_shown(blob)}")
        return _Failures(damaged)

    def _conclude(self, blob: Multihash, failures: _Failures) -> StorageError:
        if (worst := failures.worst) is not None:
            return worst
        self._missing.add(blob)
        return NotFound(f"neither this node nor anybody it knows has blob {_shown(blob)}")

    async def _keep(self, blob: Multihash, data: bytes) -> None:
        """For the next reader; without room the one who asked gets it all the same."""
        try:
            await self._put(blob, data, max_bytes=len(data))
        except (StorageFull, QuotaExceeded) as error:
            _logger.warning("no room to keep what was fetched", extra={"reason": str(error)})

    async def _take(self, blob: BlobId, source: RemoteBlobs) -> None:
        file = await source.fetch(blob) if isinstance(source, FileSource) else None
        if file is None:
            await self._put(blob.multihash, source.read(blob), max_bytes=blob.size)
            return
        try:
            await self.store.adopt(file, owner=FETCHED, reason=FETCHED, expected=blob.multihash)
        finally:
            file.unlink(missing_ok=True)
        await self._brought(blob.multihash)

    async def _put(
        self, blob: Multihash, data: bytes | AsyncIterable[bytes], *, max_bytes: int
    ) -> None:
        await self.store.put(
            data, owner=FETCHED, reason=FETCHED, expected=blob, max_bytes=max_bytes
        )
        await self._brought(blob)

    async def _brought(self, blob: Multihash) -> None:
        # Without a pin it lives until a collection finds it older than the grace period.
        await self.store.unpin(FETCHED, [blob])
        self._missing.discard(blob)


class NodeBlobs:
    """`ports.Blobs` of one owner, over a node."""

    def __init__(self, node: S5Node, owner: str) -> None:
        self._node = node
        self.owner = owner

    async def put(
        self, data: bytes | AsyncIterable[bytes], *, reason: str, may_use_reserve: bool = False
    ) -> BlobId:
        """See `ports.Blobs`; it is durable on this disk, copies elsewhere follow."""
        return await self._node.store.put(
            data, owner=self.owner, reason=reason, may_use_reserve=may_use_reserve
        )

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """See `ports.Blobs`."""
        return await self._node.get(blob, max_bytes=max_bytes)

    def read(self, blob: BlobId, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See `ports.Blobs`."""
        return self._node.read(blob, start, end)

    async def release(self, blobs: Iterable[Multihash]) -> None:
        """See `ports.Blobs`."""
        await self._node.store.unpin(self.owner, blobs)

    async def relabel(self, blobs: Iterable[Multihash], *, reason: str) -> None:
        """See `ports.Blobs`."""
        await self._node.store.relabel(self.owner, blobs, reason=reason)


class MergedRegistry:
    """`ports.EntryRegistry` over a node: what is here, unless others have something newer.

    Attributes:
        local: what is here only.
    """

    def __init__(
        self,
        local: LocalRegistry,
        others: Sequence[EntryRegistry],
        hints: Sequence[EntryRegistry] = (),
        *,
        broadcast: Callable[[SignedEntry], object] = lambda _entry: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            others: asked together, with REGISTRY_TIMEOUT; what they say is verified. Where they
                fail, and nothing is here, that is an error.
            hints: asked beside them; that they fail is none.
            broadcast: tells peers of an entry that was set here, and waits for nobody.
        """
        self.local = local
        self._others = others
        self._hints = hints
        self._broadcast = broadcast
        self._fresh = _Recent[bytes](MAX_FRESH, FRESH_SECONDS, clock)

    async def get(self, public_key: bytes) -> SignedEntry | None:
        """See `ports.EntryRegistry`. Where others fail, what is here is used."""
        ours = await self.local.get(public_key)
        if not (self._others or self._hints) or public_key in self._fresh:
            return ours
        theirs, failure = await self._ask_others(public_key)
        if theirs is not None and theirs.is_newer(ours):
            try:
                ours = await self._keep(theirs)
            except RegistryFull as error:
                _logger.warning("no room to keep an entry", extra={"reason": str(error)})
                return theirs  # and not fresh: it has to be found again
        if ours is None and failure is not None:
            raise failure
        # Where nobody answers, too: one request looks at a directory several times.
        self._fresh.add(public_key)
        return ours

    async def set(self, entry: SignedEntry) -> None:
        """See `ports.EntryRegistry`; durable here, and told to peers."""
        await self.local.set(entry)
        self._broadcast(entry)

    async def _keep(self, entry: SignedEntry) -> SignedEntry | None:
        try:
            await self.local.set(entry)
        except WriteConflict:  # a newer one came meanwhile
            return await self.local.get(entry.public_key)
        return entry

    async def _ask_others(
        self, public_key: bytes
    ) -> tuple[SignedEntry | None, StorageError | None]:
        """The newest that others know; the failure if not even one of them answered."""
        found: list[SignedEntry] = []
        failures: list[StorageError] = []

        async def ask(other: EntryRegistry, failures: list[StorageError]) -> None:
            try:
                with anyio.fail_after(REGISTRY_TIMEOUT):
                    entry = await other.get(public_key)
            except StorageError as error:
                failures.append(error)
            except TimeoutError:
                reason = f"nobody answered within {REGISTRY_TIMEOUT:g} s"
                failures.append(PortalUnavailable("the S5 registry of others", reason))
            else:
                if entry is not None:
                    found.append(entry)

        async with anyio.create_task_group() as tasks:
            for other in self._others:
                tasks.start_soon(ask, other, failures)
            for hint in self._hints:
                tasks.start_soon(ask, hint, list[StorageError]())
        newest = max(found, key=lambda entry: entry.revision, default=None)
        has_failed = bool(failures) and len(failures) == len(self._others)
        return newest, failures[0] if has_failed else None


class _Turn:
    """Be the only one that fetches a blob, for the length of the block."""

    def __init__(self, running: dict[Multihash, anyio.Event], blob: Multihash) -> None:
        self._running = running
        self._blob = blob
        self._done = anyio.Event()

    async def __aenter__(self) -> None:
        while (other := self._running.get(self._blob)) is not None:
            await other.wait()
        self._running[self._blob] = self._done

    async def __aexit__(self, *_exc: object) -> None:
        del self._running[self._blob]
        self._done.set()


class _Failures:
    """What sources answered instead of a blob, and what that means together."""

    def __init__(self, damaged: CorruptBlob | None) -> None:
        self._damaged = damaged
        self._first: StorageError | None = None

    def add(self, source: RemoteBlobs, error: StorageError) -> None:
        """One more source failed."""
        _logger.info("not fetched", extra={"source": type(source).__name__, "reason": str(error)})
        if isinstance(error, CorruptBlob):
            self._damaged = error
        elif not isinstance(error, NotFound):
            self._first = self._first or error

    @property
    def worst(self) -> StorageError | None:
        """None: everybody answered that they do not have it."""
        return self._damaged or self._first


class _Recent(Generic[K]):
    """Keys of the last seconds, at most `limit` of them."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._until: OrderedDict[K, float] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return self._until.get(key, 0.0) > self._clock()

    def add(self, key: K) -> None:
        """From now on for a while."""
        self._until[key] = self._clock() + self._seconds
        self._until.move_to_end(key)
        if len(self._until) > self._limit:
            self._until.popitem(last=False)

    def discard(self, key: K) -> None:
        """No longer."""
        self._until.pop(key, None)


def _shown(blob: Multihash) -> str:
    return blob.to_bytes().hex()
