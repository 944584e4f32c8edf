"""The registry entries that this node keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Final

from anyio.lowlevel import checkpoint
from sqlalchemy import Connection

from fabstir.primitives.errors import RegistryFull, WriteConflict
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.store.store import BlobStore
from fabstir.s5.tables.registry import (
    count_entries,
    load_entry,
    load_forks,
    save_entry,
    save_fork,
)

_SHOWN_DIGITS: Final = 16


class _Outcome(Enum):
    SAVED = auto()
    OLDER = auto()
    FORKED = auto()


class LocalRegistry:
    """Implements `ports.EntryRegistry` over the store's database.

    Args:
        max_entries: keys that may have an entry, some 250 bytes of disk each; None: any number.
            A door for strangers sets it: a signature costs them nothing.
    """

    def __init__(
        self,
        store: BlobStore,
        crypto: Crypto,
        *,
        max_entries: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = store.db
        self._store = store
        self._newest = store.newest_entries
        self._crypto = crypto
        self._max_entries = max_entries
        self._clock = clock

    async def get(self, public_key: bytes) -> SignedEntry | None:
        """The newest entry that was set here, verified when it came."""
        await checkpoint()  # who asks again and again lets others go on
        if public_key in self._newest:
            return self._newest[public_key]
        num_sets = self._newest.num_sets
        entry = await self._db.read(lambda connection: load_entry(connection, public_key))
        if num_sets == self._newest.num_sets:  # else it may be older than what was set meanwhile
            self._newest[public_key] = entry
        return entry

    async def set(self, entry: SignedEntry) -> None:
        """Keep an entry, durably. The same one again changes nothing.

        Raises:
            RemoteProtocolError: its key did not sign it, or a part is out of bounds.
            WriteConflict: what is here has a higher revision, or the same one with other data:
                then the key signed both, and both are kept as evidence.
            RegistryFull: it is of another key than the `max_entries` that are here.
            StorageFull: the disk is full.
        """
        entry.verify(self._crypto)
        saving = asyncio.ensure_future(self._write(entry))
        saving.add_done_callback(partial(self._on_saved, entry))
        # A caller that is cancelled takes nothing back: what was committed has to be remembered.
        outcome, current = await asyncio.shield(saving)
        if outcome is _Outcome.SAVED:
            return
        assert current is not None
        what = f"the registry entry of {entry.public_key.hex()}"
        if outcome is _Outcome.OLDER:
            raise WriteConflict(
                what,
                f"revision {current.revision} is here, and {entry.revision} was given: read the "
                "newer one, and sign a revision above it",
            )
        raise WriteConflict(
            what,
            f"its key signed revision {entry.revision} twice: with {_short(current.data)}, which "
            f"is here, and with {_short(entry.data)}, which is refused. Two writers share the "
            "key: read what is here, and sign a revision above it",
        )

    async def _write(self, entry: SignedEntry) -> tuple[_Outcome, SignedEntry | None]:
        def save(connection: Connection) -> tuple[_Outcome, SignedEntry | None]:
            return self._save(connection, entry)

        if self._max_entries is None:  # the owner's own: a removal publishes a directory, too
            return await self._store.make_room(save, durable=True)
        self._store.check_room(0)
        return await self._db.write(save, durable=True)

    def _on_saved(
        self, entry: SignedEntry, saving: asyncio.Future[tuple[_Outcome, SignedEntry | None]]
    ) -> None:
        self._newest.forget(entry.public_key)
        if saving.cancelled() or saving.exception() is not None:
            return
        outcome, current = saving.result()
        self._newest[entry.public_key] = entry if outcome is _Outcome.SAVED else current

    async def forks(self, public_key: bytes) -> list[SignedEntry]:
        """Entries of equal revision and different data that the key signed, by revision."""
        return await self._db.read(lambda connection: load_forks(connection, public_key))

    def _save(
        self, connection: Connection, entry: SignedEntry
    ) -> tuple[_Outcome, SignedEntry | None]:
        current = load_entry(connection, entry.public_key)
        if current is None:
            self._check_room(connection)
        if current is None or entry.revision > current.revision:
            save_entry(connection, entry, self._clock())
            return _Outcome.SAVED, current
        if entry.revision < current.revision:
            return _Outcome.OLDER, current
        if entry.data == current.data:
            return _Outcome.SAVED, current
        for side in (current, entry):
            save_fork(connection, side, self._clock())
        return _Outcome.FORKED, current

    def _check_room(self, connection: Connection) -> None:
        if self._max_entries is not None and count_entries(connection) >= self._max_entries:
            raise RegistryFull(self._max_entries)


def _short(data: bytes) -> str:
    return f"{data.hex()[:_SHOWN_DIGITS]}... ({len(data)} bytes)" if len(data) > 8 else data.hex()
