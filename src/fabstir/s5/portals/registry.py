"""A registry over several portals: the highest revision with a valid signature."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import anyio

from fabstir.primitives.errors import (
    PortalLied,
    PortalUnavailable,
    StorageError,
    WriteConflict,
)
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.portals._conclude import conclude
from fabstir.s5.portals.portal import Portal
from fabstir.s5.portals.revisions import Revisions

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

REGISTRY_TIMEOUT = 4.0
"""Seconds that each portal has: one that stalls must not hold up what the others know, and is to be
left alone soon, so this is less than who asks has patience for. The Dart node itself waits 2 s for
its peers."""


class Guarded(Protocol):
    """Asks one portal, as `PortalPool.guarded`."""

    async def __call__(self, portal: Portal, attempt: Callable[[], Awaitable[T]]) -> T: ...


class PoolRegistry:
    """`ports.EntryRegistry` over portals."""

    def __init__(self, portals: Sequence[Portal], guarded: Guarded) -> None:
        self._portals = portals
        self._guarded = guarded
        self._revisions = Revisions()

    async def get(self, public_key: bytes) -> SignedEntry | None:
        """See `ports.EntryRegistry`. A fork (two entries of one revision) is logged with its
        portals; every reader takes the same one of the two, that with the higher data.

        Raises:
            PortalLied: every portal that answers has less than this process has already seen.
        """
        entries, failures = await self._ask_all(lambda portal: portal.get_entry(public_key))
        if not entries:
            raise conclude("no portal answers for a registry entry", failures)
        found = {url: entry for url, entry in entries.items() if entry is not None}
        newest = max(found.values(), key=lambda e: (e.revision, e.data), default=None)
        revision = -1 if newest is None else newest.revision
        seen = self._revisions.newest(public_key)
        if revision < seen:
            raise PortalLied(
                ", ".join(entries),
                f"revision {seen} of registry entry {public_key.hex()} was there before, and now "
                f"the newest is {revision if newest else 'none'}: a replay, or they lost it",
            )
        self._revisions.note(public_key, revision)
        if newest is not None:
            self._name_fork(newest, found)
        return newest

    async def set(self, entry: SignedEntry) -> None:
        """See `ports.EntryRegistry`: at every portal; one is enough."""
        conflicts: list[WriteConflict] = []

        async def publish(portal: Portal) -> None:
            try:
                await portal.set_entry(entry)
            except WriteConflict as exc:
                conflicts.append(exc)

        accepted, failures = await self._ask_all(publish)
        if conflicts:
            raise conflicts[0]
        if not accepted:
            raise conclude("no portal took the registry entry", failures)
        self._revisions.note(entry.public_key, entry.revision)
        if failures:
            _LOG.warning(
                "portals lack the newest registry entry",
                extra={"revision": entry.revision, "reasons": [str(f) for f in failures]},
            )

    async def _ask_all(
        self, ask: Callable[[Portal], Awaitable[T]]
    ) -> tuple[dict[str, T], list[StorageError]]:
        answers: dict[str, T] = {}
        failures: list[StorageError] = []

        async def ask_in_time(portal: Portal) -> T:
            try:
                with anyio.fail_after(REGISTRY_TIMEOUT):
                    return await ask(portal)
            except TimeoutError:
                reason = f"no answer about a registry entry in {REGISTRY_TIMEOUT:g} s"
                raise PortalUnavailable(portal.url, reason) from None

        async def ask_one(portal: Portal) -> None:
            try:
                # The time is measured inside: a portal that lets it pass has failed.
                answers[portal.url] = await self._guarded(portal, lambda: ask_in_time(portal))
            except StorageError as exc:
                failures.append(exc)

        async with anyio.create_task_group() as tasks:
            for portal in self._portals:
                tasks.start_soon(ask_one, portal)
        return answers, failures

    def _name_fork(self, newest: SignedEntry, found: dict[str, SignedEntry]) -> None:
        others = [
            url
            for url, entry in found.items()
            if entry.revision == newest.revision and entry.data != newest.data
        ]
        if others:
            _LOG.warning(
                "registry fork: one key signed two entries of one revision",
                extra={
                    "public_key": newest.public_key.hex(),
                    "revision": newest.revision,
                    "portals": others,
                },
            )
