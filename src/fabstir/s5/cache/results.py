"""A cache of results by path: encrypted blobs with a lifetime and a size limit, evicted LRU.

Each value is a blob that this cache pins under its own owner, so evicting one takes nothing from
anybody else who pins the same bytes. An entry is a row of the store's database. The blob is stored
first, and unpinned after its row is gone: a kill in between leaves a pin without a row, which is
taken back when the cache is opened again.

A cache loses what it likes, and never returns what it should not: a value is returned only if its
blob hashes right, opens with the owner's key for this very path, and its time is not over.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio
from sqlalchemy import Connection

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import BlobTooLarge, CorruptBlob, NotFound, PathRefused
from fabstir.protocol.crypto import Crypto, DecryptionError
from fabstir.s5.fs.paths import format_path, parse_path
from fabstir.s5.store import BlobStore
from fabstir.s5.tables.cache import (
    CacheRow,
    delete_entry,
    load_entries,
    load_entry,
    load_expired,
    load_least_used,
    load_total,
    load_unused_blobs,
    save_entry,
    touch_entry,
)
from fabstir.s5.tables.pins import CACHED

_LOG = logging.getLogger(__name__)

MAX_VALUE_BYTES: Final = 16 << 20
"""Longest value. It is held in memory twice, in clear and encrypted."""

MAX_SKEW_SECONDS: Final = 300.0
"""How far an entry may come from the future, by a clock that was set back, before it is taken for
expired: its TTL says nothing then."""

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 24
_TAG_BYTES: Final = 16
_SEALED_BYTES: Final = len(_VERSION) + _NONCE_BYTES + _TAG_BYTES
"""What a value is longer by when it is encrypted."""

_PAGE: Final = 256
"""Rows of one transaction, so that nobody waits long for the writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Since the cache was opened, but for the last two.

    Attributes:
        hits, misses: of `get`; an expired or damaged entry is a miss.
        expired: entries that were removed because their time was over.
        evictions: that were removed to make room.
        damaged: whose blob was lost, rotten, or did not open.
        num_entries, num_bytes: that it has, the latter encrypted.
    """

    hits: int
    misses: int
    expired: int
    evictions: int
    damaged: int
    num_entries: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """What is known of an entry without reading it. Times in Unix seconds.

    Attributes:
        num_bytes: of the value, in clear.
    """

    path: str
    num_bytes: int
    created_at: float
    expires_at: float
    used_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """What a put took the place of, and what made room for it."""

    replaced: list[CacheRow]
    expired: list[CacheRow] = field(default_factory=list[CacheRow])
    evicted: list[CacheRow] = field(default_factory=list[CacheRow])


@dataclass(slots=True)
class _Counts:
    hits: int = 0
    misses: int = 0
    expired: int = 0
    evictions: int = 0
    damaged: int = 0


class ResultCache:
    """An open cache. Made by `open_result_cache`; safe for many tasks."""

    def __init__(
        self,
        store: BlobStore,
        *,
        owner: str,
        key: bytes,
        crypto: Crypto,
        random: Callable[[int], bytes],
        clock: Callable[[], float],
        max_bytes: int,
        default_ttl: float,
    ) -> None:
        self._store = store
        self._owner = owner
        self._key = key
        self._crypto = crypto
        self._random = random
        self._clock = clock
        self._max_bytes = max_bytes
        self._default_ttl = default_ttl
        self._counts = _Counts()
        self._num_entries = 0
        self._num_bytes = 0
        # Changes take turns: two puts that both see room for one would exceed the limit.
        self._turn = anyio.Lock()

    async def put(self, path: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep a value, in place of the path's earlier one; it survives a power cut.

        Args:
            ttl: seconds; None: the cache's own.

        Raises:
            PathRefused: `path` is none, or the root.
            BlobTooLarge: the value alone is longer than the cache or MAX_VALUE_BYTES.
            QuotaExceeded, StorageFull: nothing is kept; the earlier value stays.
        """
        name = _name(path)
        limit = min(MAX_VALUE_BYTES, self._max_bytes - _SEALED_BYTES)
        if len(value) > limit:
            raise BlobTooLarge(max(0, limit))
        blob = await self._store.put(self._seal(name, value), owner=self._owner, reason=CACHED)
        now = self._clock()
        entry = CacheRow(
            path=name,
            blob=blob,
            created_at=now,
            expires_at=now + (self._default_ttl if ttl is None else ttl),
            used_at=now,
        )
        async with self._turn, _uncancelled():
            saved = await self._store.db.write(lambda c: self._save(c, entry), durable=True)
            self._num_entries += 1
            self._num_bytes += blob.size
            await self._let_go([*saved.replaced, *saved.expired, *saved.evicted])
        self._counts.expired += len(saved.expired)
        self._counts.evictions += len(saved.evicted)

    async def get(self, path: str) -> bytes | None:
        """The value; None: there is none, or it is over or damaged.

        Raises:
            PathRefused: `path` is none, or the root.
        """
        name = _name(path)
        entry = await self._store.db.read(lambda c: load_entry(c, self._owner, name))
        value = None if entry is None else await self._value_of(entry)
        if value is None:
            self._counts.misses += 1
        else:
            self._counts.hits += 1
        return value

    async def delete(self, path: str) -> int:
        """Forget a path and everything below it; "" forgets all.

        Returns:
            How many entries there were.
        """
        below, num_deleted = format_path(parse_path(path)), 0
        while page := await self._store.db.read(
            lambda c: load_entries(c, self._owner, below, "", _PAGE)
        ):
            num_deleted += await self._forget(page)
        return num_deleted

    async def expire(self) -> int:
        """Remove what is over; without this it goes when it is asked for or room is needed.

        Returns:
            How many entries there were.
        """
        num_expired = 0
        while page := await self._store.db.read(
            lambda c: load_expired(c, self._owner, self._clock(), _PAGE)
        ):
            num_expired += await self._forget(page)
        self._counts.expired += num_expired
        return num_expired

    async def entries(self, path: str = "") -> AsyncIterator[CacheEntry]:
        """What there is below a path, expired or not, in the order of the paths."""
        below, after = format_path(parse_path(path)), ""
        while page := await self._store.db.read(
            lambda c, after=after: load_entries(c, self._owner, below, after, _PAGE)
        ):
            for row in page:
                yield CacheEntry(
                    path=row.path,
                    num_bytes=row.blob.size - _SEALED_BYTES,
                    created_at=row.created_at,
                    expires_at=row.expires_at,
                    used_at=row.used_at,
                )
            after = page[-1].path

    @property
    def stats(self) -> CacheStats:
        """Counters, for metrics."""
        return CacheStats(
            hits=self._counts.hits,
            misses=self._counts.misses,
            expired=self._counts.expired,
            evictions=self._counts.evictions,
            damaged=self._counts.damaged,
            num_entries=self._num_entries,
            num_bytes=self._num_bytes,
        )

    async def repair(self) -> int:
        """Count what there is, and take back pins that a kill left without an entry.

        Returns:
            How many such pins there were.
        """
        total = await self._store.db.read(lambda c: load_total(c, self._owner))
        self._num_entries, self._num_bytes = total
        num_unused, page = 0, list[Multihash]()
        async for pin in self._store.pins(self._owner):
            page.append(pin.blob.multihash)
            if len(page) == _PAGE:
                num_unused += await self._release_unused(page)
                page = []
        return num_unused + await self._release_unused(page)

    async def _release_unused(self, pinned: Sequence[Multihash]) -> int:
        unused = await self._store.db.read(lambda c: load_unused_blobs(c, self._owner, pinned))
        await self._store.unpin(self._owner, unused)
        return len(unused)

    async def _value_of(self, entry: CacheRow) -> bytes | None:
        now = self._clock()
        if not entry.created_at - MAX_SKEW_SECONDS <= now < entry.expires_at:
            self._counts.expired += await self._forget([entry])
            return None
        try:
            sealed = await self._store.get(entry.blob.multihash, max_bytes=entry.blob.size)
            value = self._open(entry.path, sealed)
        except (NotFound, CorruptBlob, DecryptionError) as exc:
            # NotFound is also what a replaced or evicted entry gives to a slower reader.
            if await self._forget([entry]):
                self._counts.damaged += 1
                _LOG.warning(
                    "a cached result is dropped", extra={"path": entry.path, "reason": str(exc)}
                )
            return None
        # Not durable: losing when something was last of use costs nothing.
        await self._store.db.write(lambda c: touch_entry(c, self._owner, entry, now), durable=False)
        return value

    async def _forget(self, rows: Sequence[CacheRow]) -> int:
        def forget(connection: Connection) -> list[CacheRow]:
            return [row for row in rows if delete_entry(connection, self._owner, row)]

        async with self._turn, _uncancelled():
            gone = await self._store.db.write(forget, durable=True)
            await self._let_go(gone)
        return len(gone)

    async def _let_go(self, rows: Sequence[CacheRow]) -> None:
        """Their rows are gone already."""
        self._num_entries -= len(rows)
        self._num_bytes -= sum(row.blob.size for row in rows)
        await self._store.unpin(self._owner, [row.blob.multihash for row in rows])

    def _save(self, connection: Connection, entry: CacheRow) -> _Saved:
        """Store an entry and make room for it: what is over goes first, then what is least used."""
        replaced = save_entry(connection, self._owner, entry)
        saved = _Saved(replaced=[] if replaced is None else [replaced])
        now, excess = entry.created_at, self._num_bytes + entry.blob.size - self._max_bytes
        excess -= sum(row.blob.size for row in saved.replaced)
        for load, gone in (
            (lambda: load_expired(connection, self._owner, now, _PAGE), saved.expired),
            (lambda: load_least_used(connection, self._owner, _PAGE), saved.evicted),
        ):
            while excess > 0 and (page := [row for row in load() if row.path != entry.path]):
                for row in page:
                    if excess > 0:
                        delete_entry(connection, self._owner, row)
                        excess -= row.blob.size
                        gone.append(row)
        return saved

    def _seal(self, path: str, value: bytes) -> bytes:
        nonce = self._random(_NONCE_BYTES)
        return _VERSION + nonce + self._crypto.seal(self._key, nonce, self._bound_to(path), value)

    def _open(self, path: str, sealed: bytes) -> bytes:
        if not sealed.startswith(_VERSION):
            raise DecryptionError("a cached value of another version")
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        return self._crypto.open(self._key, nonce, self._bound_to(path), rest)

    def _bound_to(self, path: str) -> bytes:
        """A value opens at its own path only, so that no entry can be passed off as another."""
        return b"fabstir-cache-v1\0" + self._owner.encode() + b"\0" + path.encode()


@asynccontextmanager
async def _uncancelled() -> AsyncGenerator[None]:
    """What is committed is also counted, and its pins taken back."""
    with anyio.CancelScope(shield=True):
        yield


def _name(path: str) -> str:
    """The path's one spelling. Raises PathRefused, for the root too."""
    segments = parse_path(path)
    if not segments:
        raise PathRefused("a cached result needs a path")
    return format_path(segments)


@asynccontextmanager
async def open_result_cache(
    store: BlobStore,
    *,
    owner: str,
    key: bytes,
    crypto: Crypto,
    random: Callable[[int], bytes],
    clock: Callable[[], float],
    max_bytes: int,
    default_ttl: float,
) -> AsyncGenerator[ResultCache]:
    """Open an owner's cache in a store, and finish what a kill interrupted.

    Args:
        owner: of the pins; nothing else may pin under this name.
        key: 32 bytes, the owner's: who has the disk and not this, reads nothing but the paths.
        random: gives so many random bytes.
        clock: Unix seconds.
        max_bytes: of all values, encrypted.
        default_ttl: seconds.

    Raises:
        ConfigError: this process has it open already.
    """
    with store.db.hold(f"the cached results of {owner}"):
        cache = ResultCache(
            store,
            owner=owner,
            key=key,
            crypto=crypto,
            random=random,
            clock=clock,
            max_bytes=max_bytes,
            default_ttl=default_ttl,
        )
        await cache.repair()
        yield cache
