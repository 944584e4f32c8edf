"""Registry entries are told to peers once their blobs can be had.

A client that finds an entry and not its blob takes the directory for empty and writes over it. So
an entry that points at a blob is passed on when this node has the blob, or a peer says where it is;
until then it is held back, and looked at again and again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final

import anyio

from fabstir.primitives.cid import Multihash
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.network import Network
from fabstir.s5.peers.session import PeerSession
from fabstir.telemetry.waiting import Wakeup

_logger = logging.getLogger(__name__)

_MULTIHASH_BYTES: Final = 33

_AT_ONCE: Final = 16
"""Blobs of entries that are looked for at the same time."""

_PER_ROUND: Final = 64
"""Entries held back that are looked at again together."""


class Announcements:
    """What is to be told to peers.

    Args:
        can_be_had: whether a blob is here or a peer says where.
    """

    def __init__(
        self,
        network: Network,
        limits: PeerLimits,
        can_be_had: Callable[[Multihash], Awaitable[bool]],
    ) -> None:
        self._network = network
        self._limits = limits
        self._can_be_had = can_be_had
        self._pending: OrderedDict[bytes, tuple[SignedEntry, bytes | None]] = OrderedDict()
        self._held: OrderedDict[bytes, tuple[SignedEntry, bytes | None]] = OrderedDict()
        self._recent: OrderedDict[bytes, SignedEntry] = OrderedDict()
        self._has_more = Wakeup()

    def announce(self, entry: SignedEntry, *, but: bytes | None = None) -> None:
        """Tell peers soon.

        Args:
            but: the key of the peer that told this node.
        """
        self._held.pop(entry.public_key, None)
        if _blob_of(entry) is not None:  # held back from now on, not only once it was looked for
            self._hold(entry, but)
        self._pending[entry.public_key] = (entry, but)
        self._pending.move_to_end(entry.public_key)
        self._has_more.wake()

    def tell_recent(self, session: PeerSession) -> None:
        """Tell a new peer what it missed: entries that were told to others a while ago."""
        for key, entry in self._recent.items():
            session.tell(key, entry.encode())

    def is_held(self, entry: SignedEntry | None) -> bool:
        """Whether nobody is known to have its blob."""
        held = None if entry is None else self._held.get(entry.public_key)
        return held is not None and held[0] == entry

    async def may_be_told(self, entry: SignedEntry) -> bool:
        """Whether a client that asks may get it: what is held back, once its blob was found."""
        if not self.is_held(entry):
            return True
        return await self._try(*self._held[entry.public_key])

    async def run(self) -> None:
        """Tell what there is to tell, until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_again)
            while True:
                await self._has_more.sleep()
                while self._pending:
                    now = [self._pending.popitem(last=False)[1] for _ in range(self._num_next())]
                    await self._try_all(now)

    def _num_next(self) -> int:
        return min(_AT_ONCE, len(self._pending))

    async def _look_again(self) -> None:
        while True:
            await anyio.sleep(self._limits.announce_again)
            # Those that are still held go to the end, so that each has its turn.
            waiting = (held for key, held in self._held.items() if key not in self._pending)
            await self._try_all(list(islice(waiting, _PER_ROUND)))

    async def _try_all(self, told: list[tuple[SignedEntry, bytes | None]]) -> None:
        async with anyio.create_task_group() as tasks:
            for entry, but in told:
                tasks.start_soon(self._try, entry, but)

    async def _try(self, entry: SignedEntry, but: bytes | None) -> bool:
        blob = _blob_of(entry)
        can_be_had = blob is None or await self._can_be_had(blob)
        if self._is_outdated(entry):
            return can_be_had
        if can_be_had:
            self._held.pop(entry.public_key, None)
            self._pending.pop(entry.public_key, None)
            self._tell(entry, but)
            return True
        self._hold(entry, but)
        _logger.debug(
            "an entry is held back until its blob can be had",
            extra={"key": entry.public_key.hex(), "revision": entry.revision},
        )
        return False

    def _is_outdated(self, entry: SignedEntry) -> bool:
        """Whether a newer one came while its blob was looked for."""
        known = (self._pending.get(entry.public_key), self._held.get(entry.public_key))
        return any(other is not None and other[0].is_newer(entry) for other in known)

    def _hold(self, entry: SignedEntry, but: bytes | None) -> None:
        self._held[entry.public_key] = (entry, but)
        self._held.move_to_end(entry.public_key)
        if len(self._held) > self._limits.max_unsettled:
            self._held.popitem(last=False)

    def _tell(self, entry: SignedEntry, but: bytes | None) -> None:
        self._recent[entry.public_key] = entry
        self._recent.move_to_end(entry.public_key)
        if len(self._recent) > self._limits.max_recent:
            self._recent.popitem(last=False)
        frame = entry.encode()
        for session in self._network.one_each(but=but):
            session.tell(entry.public_key, frame)


def _blob_of(entry: SignedEntry) -> Multihash | None:
    """What an entry points at; None: its data is not a blob's hash."""
    if len(entry.data) != _MULTIHASH_BYTES:
        return None
    try:
        return Multihash.from_bytes(entry.data)
    except ValueError:
        return None
