"""Copies of pinned blobs elsewhere: made, checked, restored where lost, and released.

What only a cache pins gets none: it is made again more cheaply than it is kept.

Everything that is decided is a row (`s5.tables.replicas`) and every round does a bounded amount of
it, so a kill at any point costs at most one round. Which places get a blob is decided by its hash
(rendezvous hashing): places share the load, and stay the same when one more is named.

A registry entry follows the blob that it points at: a portal hears of a directory when it has it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    CorruptBlob,
    NotFound,
    PortalError,
    PortalLied,
    PortalUnavailable,
    RemoteProtocolError,
    StorageError,
    WriteConflict,
)
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.registry import SignedEntry, read_blob_pointer
from fabstir.s5.portals import Portal, PortalPool
from fabstir.s5.portals.queue import UploadQueue
from fabstir.s5.ports import EntryRegistry
from fabstir.s5.store import LocalRegistry
from fabstir.s5.tables.publications import (
    is_own_key,
    load_unpublished,
    note_own_entry,
    note_publication,
)
from fabstir.s5.tables.replicas import (
    FIRST_KEY,
    PlaceUsage,
    Replica,
    ReplicaState,
    Wanted,
    count_missing,
    delete_replica,
    load_due,
    load_places,
    load_replicas,
    load_rotten,
    load_unwanted,
    load_wanted,
    newest_blob,
    save_queued,
    touch_replica,
)
from fabstir.s5.transfer.node import S5Node

_logger = logging.getLogger(__name__)

PAGE: Final = 256
"""Blobs of one transaction."""

MAX_QUEUED: Final = 2048
"""Copies that one round asks for; the next one goes on behind them."""

MAX_CHECKED: Final = 64
"""Copies that one round looks at, each a request of some KiB."""

MAX_RELEASED: Final = 64
RELEASE_WINDOW: Final = 4_096
"""Copies that one round looks through for those to take back: 10 to 30 ms, whatever there are."""

MAX_PUBLISHED: Final = 256
MAX_MENDED: Final = 16
"""Rotten or lost blobs of this disk that one round brings back: each may be of any length."""

ROUNDS_BETWEEN_CHECKS: Final = 12
"""A copy is looked at again after so many rounds: every hour, at one in five minutes."""

SAMPLE_BYTES: Final = 4096
"""Of a copy that is looked at, from a place that nobody can know before."""

WHOLE_ONE_IN: Final = 64
"""Looks at which the whole copy is read and hashed, rather than a sample of it..."""

MAX_WHOLE_BYTES: Final = 16 << 20
"""...if it is not longer: the others' samples find a place that lost a part sooner or later."""

LATE_SECONDS: Final = 3600.0
"""How long a copy may be on its way before another place is asked too: a portal may be away for
minutes, or refuse for good."""

GATHER_SECONDS: Final = 0.1
"""How long an early round waits for more to come, so that many puts make one round."""

CONCURRENT: Final = 4
"""Requests of one round at the same time."""


@dataclass(slots=True)
class Round:
    """What one round came to."""

    num_queued: int = 0
    num_checked: int = 0
    num_lost: int = 0
    num_released: int = 0
    num_published: int = 0
    num_mended: int = 0


class Replication:
    """Keeps `num_copies` copies of every pinned blob, this node's own included.

    Args:
        enter: gives a portal an account in which we may store, if it has none yet. What the portal
            is at fault for is a PortalError.
        on_lost: called for every copy that was there and is gone.
        random_below: a number from 0 to below its argument, which places cannot foresee.
    """

    def __init__(
        self,
        node: S5Node,
        registry: LocalRegistry,
        pool: PortalPool,
        uploads: UploadQueue,
        crypto: Crypto,
        *,
        num_copies: int,
        seconds: float,
        enter: Callable[[Portal, PortalPool], Awaitable[None]],
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        random_below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self._node = node
        self._db = node.store.db
        self._registry = registry
        self._pool = pool
        self._portals = {portal.url: portal for portal in pool.portals}
        self._uploads = uploads
        self._crypto = crypto
        self._num_elsewhere = min(num_copies - 1, len(self._portals))
        self._seconds = seconds
        self._enter = enter
        self._on_lost = on_lost
        self._clock = clock
        self._random_below = random_below
        self._cursor = 0
        """The blob behind which the search for missing copies goes on."""
        self._newest = 0
        """The newest blob of the last search that reached the end."""
        self._released = FIRST_KEY
        """The copy behind which the search for those to take back goes on."""
        self._unsure: set[str] = set()
        """Portals at which it could not be known whether there is an account already."""
        self._woken = anyio.Event()

    # -- what is where ----------------------------------------------------------------------------

    async def where(self, blob: BlobId) -> Sequence[Replica]:
        """The copies of a blob, that on this disk not included."""
        return await self._db.read(lambda c: load_replicas(c, blob))

    async def places(self) -> Sequence[PlaceUsage]:
        """What each place has of ours."""
        return await self._db.read(load_places)

    async def num_missing(self) -> int:
        """Copies that kept blobs lack."""
        if not self._num_elsewhere:
            return 0
        places = list(self._portals)
        return await self._db.read(lambda c: count_missing(c, places, self._num_elsewhere))

    # -- what to do -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was stored: its copies need not wait for the next round's time."""
        self._woken.set()

    async def run(self) -> None:
        """Round after round, until cancelled."""
        is_early = False
        while True:
            self._woken, uploaded = anyio.Event(), self._uploads.changed
            try:
                await self.round(only_new=is_early)
            except StorageError as error:  # a full disk: the rest is for the next round
                _logger.warning("copies were not seen to", extra={"reason": str(error)})
            is_early = await self._wait(self._woken, uploaded)
            if is_early:
                await anyio.sleep(GATHER_SECONDS)

    async def _wait(self, *events: anyio.Event) -> bool:
        """Until one of them, or the next round's time. Returns whether it was one of them."""
        is_early = False

        async def wait(event: anyio.Event) -> None:
            nonlocal is_early
            await event.wait()
            is_early = True
            tasks.cancel_scope.cancel()

        with anyio.move_on_after(self._seconds):
            async with anyio.create_task_group() as tasks:
                for event in events:
                    tasks.start_soon(wait, event)
        return is_early

    async def round(self, *, only_new: bool = False) -> Round:
        """Do a bounded part of what there is to do.

        Args:
            only_new: look for blobs that came since the last round, and at nothing that is known.
        """
        done = Round()
        usable = [
            portal
            for portal in self._portals.values()
            if await self._can_use(portal, is_early=only_new)
        ]
        if self._num_elsewhere and usable:
            urls = [portal.url for portal in usable]
            await self._queue_missing(done, urls, only_new=only_new)
        if not only_new:
            await self._mend(done)
            await self._check(done)
        await self._release(done)
        for portal in usable:
            await self._publish(portal, done)
        if done != Round():
            _logger.info("copies were seen to", extra={"round": str(done)})
        return done

    async def claim(self, public_key: bytes) -> None:
        """The key was made on this machine, so nobody else can have an entry of it."""
        now = self._clock()
        await self._db.write(lambda c: note_own_entry(c, public_key, -1, now), durable=True)

    async def is_claimed(self, public_key: bytes) -> bool:
        """Whether it was, or entries of it were set here."""
        return await self._db.read(lambda c: is_own_key(c, public_key))

    async def note_entry(self, entry: SignedEntry) -> None:
        """An entry of ours is about to be set."""
        if self._num_elsewhere:
            now = self._clock()
            await self._db.write(
                lambda c: note_own_entry(c, entry.public_key, entry.revision, now), durable=False
            )

    async def _can_use(self, portal: Portal, *, is_early: bool) -> bool:
        if not self._num_elsewhere or portal.session.token is not None:
            return bool(self._num_elsewhere)
        if is_early and portal.url in self._unsure:
            return False  # every put would ask, and wait for whoever does not answer
        self._unsure.discard(portal.url)
        try:
            await self._enter(portal, self._pool)
        except PortalError as error:
            _logger.info("no account", extra={"portal": portal.url, "reason": str(error)})
        except StorageError as error:
            self._unsure.add(portal.url)
            _logger.warning("no account", extra={"portal": portal.url, "reason": str(error)})
        else:
            return True
        return False

    async def _queue_missing(self, done: Round, usable: Sequence[str], *, only_new: bool) -> None:
        newest = await self._db.read(newest_blob)
        after = self._newest if only_new else self._cursor
        while done.num_queued < MAX_QUEUED:
            wanted = await self._load_wanted(after)
            for item in wanted:
                lacking = self._num_elsewhere - len(item.taken & self._portals.keys())
                for place in self._choose(item, usable)[:lacking]:
                    done.num_queued += await self._queue(item.blob, place)
            if len(wanted) < PAGE:
                self._cursor, self._newest = 0, newest
                return
            after = wanted[-1].id
        self._cursor = after

    async def _load_wanted(self, after: int) -> Sequence[Wanted]:
        places, queued_after = list(self._portals), self._clock() - LATE_SECONDS
        return await self._db.read(
            lambda c: load_wanted(
                c,
                places,
                self._num_elsewhere,
                queued_after=queued_after,
                after=after,
                limit=PAGE,
            )
        )

    def _choose(self, item: Wanted, usable: Sequence[str]) -> Sequence[str]:
        """Places for a blob, the best first; those that have kept it waiting last."""

        def rank(place: str) -> tuple[bool, bytes]:
            return place in item.late, self._crypto.blake3(place.encode() + item.blob.digest)

        return sorted((place for place in usable if place not in item.taken), key=rank)

    async def _queue(self, blob: BlobId, place: str) -> bool:
        # Queued first: a kill in between leaves a copy that is made and not expected, no more.
        try:
            await self._uploads.enqueue(blob, [place])
        except NotFound:  # unpinned meanwhile
            return False
        now = self._clock()
        await self._db.write(lambda c: save_queued(c, blob, place, now), durable=False)
        return True

    # -- looking at copies ------------------------------------------------------------------------

    async def _check(self, done: Round) -> None:
        before = self._clock() - ROUNDS_BETWEEN_CHECKS * self._seconds
        places = list(self._portals)
        due = await self._db.read(
            lambda c: load_due(c, places, ReplicaState.STORED, before, MAX_CHECKED)
        )
        await self._each(due, lambda replica: self._look_at(replica, done))

    async def _look_at(self, replica: Replica, done: Round) -> None:
        portal = self._portals[replica.place]
        done.num_checked += 1
        try:
            await self._pool.guarded(portal, lambda: self._verify(portal, replica.blob))
        except (NotFound, PortalLied) as error:
            _logger.warning(
                "a copy is lost, and made again",
                extra={
                    "blob": replica.blob.encode(),
                    "place": replica.place,
                    "reason": str(error),
                },
            )
            done.num_lost += 1
            self._on_lost()
            await self._forget(replica)
            self._newest = 0  # so that an early round finds it, too
            self.wake()
        except StorageError as error:
            _logger.info("a copy was not looked at", extra={"reason": str(error)})
            await self._seen(replica)
        else:
            await self._seen(replica)

    async def _verify(self, portal: Portal, blob: BlobId) -> None:
        """Compare a part of the copy, or all of it, with what is here.

        Raises:
            NotFound, PortalLied: it is not there, or something else is.
        """
        if not blob.size:
            return
        if blob.size <= MAX_WHOLE_BYTES and not self._random_below(WHOLE_ONE_IN):
            await portal.get(blob.multihash, max_bytes=blob.size)
            return
        start = self._random_below(max(1, blob.size - SAMPLE_BYTES))
        end = min(blob.size, start + SAMPLE_BYTES)
        try:
            pieces = self._node.store.read(blob.multihash, start, end)
            ours = b"".join([piece async for piece in pieces])
        except (NotFound, CorruptBlob):
            return  # nothing to compare with, which is not the portal's fault
        theirs = await portal.unverified_range(blob, start, end)
        if theirs != ours:
            raise PortalLied(portal.url, f"it has other bytes than blob {blob.encode()}")

    async def _forget(self, replica: Replica) -> None:
        await self._db.write(lambda c: delete_replica(c, replica), durable=False)

    async def _seen(self, replica: Replica) -> None:
        now = self._clock()
        await self._db.write(lambda c: touch_replica(c, replica, now), durable=False)

    # -- the rest of a round ----------------------------------------------------------------------

    async def _release(self, done: Round) -> None:
        """Take back copies of what nobody pins here any more."""
        places = list(self._portals)
        unwanted, self._released = await self._db.read(
            lambda c: load_unwanted(
                c, places, after=self._released, window=RELEASE_WINDOW, limit=MAX_RELEASED
            )
        )
        await self._each(unwanted, lambda replica: self._take_back(replica, done))

    async def _take_back(self, replica: Replica, done: Round) -> None:
        portal = self._portals[replica.place]
        try:
            if replica.state is ReplicaState.STORED:
                await self._pool.guarded(portal, lambda: portal.unpin(replica.blob.multihash))
        except PortalError as error:
            _logger.info("a copy was not taken back", extra={"reason": str(error)})
            return
        await self._forget(replica)
        done.num_released += 1

    async def _mend(self, done: Round) -> None:
        """Bring sound bytes for what has rotted here."""
        for blob in await self._db.read(lambda c: load_rotten(c, MAX_MENDED)):
            try:
                await self._node.mend(blob)
            except StorageError as error:
                _logger.warning(
                    "a damaged blob was not replaced",
                    extra={"blob": blob.encode(), "reason": str(error)},
                )
            else:
                done.num_mended += 1

    async def _publish(self, portal: Portal, done: Round) -> None:
        """Tell a portal of our newest registry entries, once it has what they point at."""
        waiting = await self._db.read(lambda c: load_unpublished(c, portal.url, MAX_PUBLISHED))
        for item in waiting:
            entry = await self._registry.get(item.public_key)
            if entry is None or not await self._has_target(entry, portal.url):
                continue
            try:
                await self._pool.guarded(portal, lambda entry=entry: portal.set_entry(entry))
            except WriteConflict as error:
                # Somebody with the same identity was faster; whoever reads gets theirs from now on.
                _logger.warning(
                    "a registry entry is older than another", extra={"reason": str(error)}
                )
            except StorageError as error:
                _logger.info("a registry entry waits", extra={"reason": str(error)})
                return
            done.num_published += 1
            revision = max(entry.revision, item.revision)
            await self._db.write(
                lambda c, key=item.public_key, revision=revision: note_publication(
                    c, key, portal.url, revision
                ),
                durable=False,
            )

    async def _has_target(self, entry: SignedEntry, place: str) -> bool:
        if not entry.data:
            return True
        try:
            blob = read_blob_pointer(entry.data)
        except RemoteProtocolError:
            return True  # no pointer, so nothing to wait for
        size = await self._node.store.size(blob)
        if size is None:
            return False
        copies = await self.where(BlobId(blob.digest, size, blob.type))
        return any(c.place == place and c.state is ReplicaState.STORED for c in copies)

    async def _each(
        self, replicas: Sequence[Replica], do: Callable[[Replica], Awaitable[None]]
    ) -> None:
        limiter = anyio.CapacityLimiter(CONCURRENT)

        async def one(replica: Replica) -> None:
            async with limiter:
                await do(replica)

        async with anyio.create_task_group() as tasks:
            for replica in replicas:
                tasks.start_soon(one, replica)


class OwnRegistry:
    """`ports.EntryRegistry` of the node's own file system: portals get what is set here, too.

    Once the tree's root is here, or where the identity was made, this disk decides what is not
    known: so files can be written while every portal and peer is away. On a machine that an
    identity has just come to, nobody answering is an error: the tree would look empty, and be
    written anew.
    """

    def __init__(
        self,
        registry: EntryRegistry,
        local: EntryRegistry,
        replication: Replication,
        root_key: bytes,
    ) -> None:
        self._registry = registry
        self._local = local
        self._replication = replication
        self._root_key = root_key

    async def get(self, public_key: bytes) -> SignedEntry | None:
        """See `ports.EntryRegistry`."""
        try:
            return await self._registry.get(public_key)
        except PortalError as error:
            if await self._replication.is_claimed(self._root_key):
                return None
            if await self._local.get(self._root_key) is not None:
                return None
            raise PortalUnavailable(
                error.url,
                f"{error.reason}; this identity's files are not on this machine yet, and who may "
                "have them does not answer: try again, or correct s5.portals and s5.peers",
            ) from error

    async def set(self, entry: SignedEntry) -> None:
        """See `ports.EntryRegistry`."""
        # Noted first: a kill in between leaves a note without an entry, which costs a look.
        await self._replication.note_entry(entry)
        await self._registry.set(entry)
        self._replication.wake()
