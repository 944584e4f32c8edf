"""Writing directories: read the newest, apply the changes, publish the next revision; else retry.

The registry takes each revision once, so of two writers one is told no; it reads what the other
wrote and applies its own changes to that. No clock is looked at. Every directory that is touched
gets one new revision, the deepest first; a directory that is missing gets its whole first content
before the one above it names it. What a revision no longer names is released after the registry
has the revision.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import (
    AccessDenied,
    NotFound,
    PathRefused,
    PortalError,
    StorageError,
    WriteConflict,
)
from fabstir.s5.formats.directory import Cbor, DirRef, LinkKind
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.encryption import NONCE_BYTES
from fabstir.s5.formats.limits import MAX_REVISION
from fabstir.s5.fs.authorship import Authorship
from fabstir.s5.fs.changes import Change, NameSlot, PutDirectory, same_link
from fabstir.s5.fs.directories import Directories, Loaded, LostRace, State
from fabstir.s5.fs.keys import (
    child_of,
    derived_child,
    in_clear,
    random_child,
    sealed_write_key,
)
from fabstir.s5.fs.looks import Looks
from fabstir.s5.fs.ownership import named_blobs, own_blobs
from fabstir.s5.fs.paths import Segments, format_path
from fabstir.s5.fs.plans import Plan
from fabstir.s5.fs.rewriting import Rewriting, Rewritten
from fabstir.s5.fs.values import split_time
from fabstir.telemetry.waiting import KeyedLocks

MAX_ATTEMPTS: Final = 40
"""How often one directory is tried: each failure is some other writer's success."""

_FIRST_WAIT, _MAX_WAIT = 0.002, 0.25
"""Seconds; the wait is random below a bound that doubles."""

SlotsByPath = dict[Segments, NameSlot]
"""What there is afterwards under each path that a plan changed."""


class _Gone(Exception):
    """The directory was deleted while it was to be written."""


class _Taken(Exception):
    """The keys of a directory that was to be made are another one's."""


@dataclass(slots=True)
class _Attempts:
    """What one plan's attempts have in common.

    Attributes:
        bases: what there was under each name at first.
        settled: directories below that are written.
        prepared: directories below that are written, and named by nobody yet.
        replaced: directories below that were deleted and are made anew.
    """

    bases: dict[str, NameSlot] = field(default_factory=dict[str, NameSlot])
    settled: set[str] = field(default_factory=set[str])
    prepared: dict[str, DirRef] = field(default_factory=dict[str, DirRef])
    replaced: dict[str, DirRef] = field(default_factory=dict[str, DirRef])


@dataclass(slots=True)
class _Edit:
    """What one revision changes.

    Attributes:
        before, after: by names as they are spelled in the directory.
        results: by names as the plan spells them.
    """

    before: dict[str, NameSlot] = field(default_factory=dict[str, NameSlot])
    after: dict[str, NameSlot] = field(default_factory=dict[str, NameSlot])
    results: dict[str, NameSlot] = field(default_factory=dict[str, NameSlot])

    @property
    def is_empty(self) -> bool:
        return self.before == self.after

    def note(self, name: str, stored: str, before: NameSlot, after: NameSlot) -> None:
        self.before[stored] = before
        self.after[stored] = after
        self.results[name] = after


class Commits:
    """Applies plans to a tree.

    Args:
        may_release: whether blobs that are no longer named may be released at once.
    """

    def __init__(
        self,
        directories: Directories,
        rewriting: Rewriting,
        *,
        clock: Callable[[], float],
        is_clear: bool,
        may_release: Callable[[], Awaitable[bool]],
    ) -> None:
        self._directories = directories
        self._rewriting = rewriting
        self._clock = clock
        self._is_clear = is_clear
        self._may_release = may_release
        self._locks = KeyedLocks()

    async def commit(
        self, plan: Plan, directory: Capability, *, must_exist: bool = False
    ) -> SlotsByPath:
        """Carry out a plan, and release what was stored for it in vain.

        Args:
            directory: where the plan begins.
            must_exist: whether that directory may not be made by this.

        Raises:
            WriteConflict: somebody else changed the same name, or a condition does not hold. What
                was published in deeper directories until then stays.
            NotFound, PathRefused, AccessDenied, PortalError, StorageFull, QuotaExceeded
        """
        outcome: SlotsByPath = {}
        # One that was deleted is not made anew under its old keys: no path would lead there.
        allowed = {State.PRESENT} if must_exist else {State.PRESENT, State.MISSING}
        try:
            await self._apply(plan, directory, outcome, allowed)
        except _Gone as exc:
            path = format_path(plan.path)
            what = f"the directory {path!a}" if path else "the directory of this capability"
            raise NotFound(f"{what} was deleted") from exc
        except PortalError:
            # The entry may have been taken all the same: nothing that it names may go.
            raise
        except StorageError:
            await self._release_unused(plan, outcome)
            raise
        await self._release_unused(plan, outcome)
        return outcome

    async def _release_unused(self, plan: Plan, outcome: SlotsByPath) -> None:
        named = {blob for slot in outcome.values() for blob in named_blobs(slot.file)}
        unused = plan.blobs() - named
        if unused:
            await self._directories.release(unused)

    async def _apply(
        self, plan: Plan, capability: Capability, outcome: SlotsByPath, allowed: set[State]
    ) -> None:
        path = format_path(plan.path)
        attempts = _Attempts()
        for attempt in range(MAX_ATTEMPTS):
            await self._wait(attempt)
            if plan.below:
                loaded = await self._load(plan, capability, allowed)
                await self._write_below(plan, loaded, attempts, outcome)
                is_needed = plan.changes or attempts.prepared
                if not is_needed and loaded.state is State.PRESENT:
                    return
            async with self._locks.hold(capability.cid.link):
                loaded = await self._load(plan, capability, allowed)
                if await self._try(plan, loaded, attempts, outcome):
                    if not self._is_linking(attempts):
                        return
                    attempts.prepared.clear()
                    attempts.replaced.clear()
        raise WriteConflict(path, f"{MAX_ATTEMPTS} times another writer was faster: try again")

    def _is_linking(self, attempts: _Attempts) -> bool:
        """Whether this revision only names new, empty directories, which are written after it.

        In trees for S5.js, where a new directory has the keys that one of its name has always had:
        so what a writer that is killed in between leaves behind is empty.
        """
        return self._is_clear and bool(attempts.prepared)

    async def _load(self, plan: Plan, capability: Capability, allowed: set[State]) -> Loaded:
        loaded = await self._directories.load(capability, format_path(plan.path))
        if loaded.state not in allowed:
            raise _Taken if loaded.state is State.PRESENT else _Gone
        return loaded

    # -- directories below ------------------------------------------------------------------------

    async def _write_below(
        self, plan: Plan, loaded: Loaded, attempts: _Attempts, outcome: SlotsByPath
    ) -> None:
        slots = await self._directories.slots(loaded, plan.below)
        for name, below in plan.below.items():
            if name in attempts.settled:
                continue
            slot = slots[name][1]
            if slot.file is not None and slot.directory is None:
                raise PathRefused(f"{format_path(below.path)!a} is a file: it can hold nothing")
            ref = slot.directory
            if ref is not None and not same_link(ref, attempts.replaced.get(name)):
                child = child_of(loaded.capability, name, ref, self._directories.crypto)
                try:
                    await self._apply(below, child, outcome, {State.PRESENT})
                except _Gone:
                    attempts.replaced[name] = ref
                    attempts.prepared.pop(name, None)
                else:
                    attempts.settled.add(name)
                    attempts.prepared.pop(name, None)
                    continue
            if name not in attempts.prepared:
                attempts.prepared[name] = await self._create(below, loaded.capability, outcome)

    async def _create(self, plan: Plan, parent: Capability, outcome: SlotsByPath) -> DirRef:
        """Write a new directory with its first content; nobody names it yet."""
        name, crypto = plan.path[-1], self._directories.crypto
        child = derived_child(parent, name, crypto)
        if child is None:
            raise AccessDenied(f"{format_path(plan.path[:-1])!a} was shared for reading only")
        if self._is_clear:
            return await self._create_empty(in_clear(child), plan)
        if not await self._directories.is_taken(child.cid.link, format_path(plan.path)):
            try:
                await self._apply(plan, child, outcome, {State.MISSING})
            except (_Taken, _Gone):
                pass
            else:
                return self._reference(child)
        child = random_child(parent, self._directories.random, crypto)
        await self._apply(plan, child, outcome, {State.MISSING})
        nonce = self._directories.random(NONCE_BYTES)
        return self._reference(child, sealed_write_key(parent, child, nonce, crypto))

    async def _create_empty(self, child: Capability, plan: Plan) -> DirRef:
        """A directory under the keys of its name; what another writer just made there stays."""
        path = format_path(plan.path)
        for attempt in range(MAX_ATTEMPTS):
            await self._wait(attempt)
            loaded = await self._directories.load_or_begin(child, path)
            if loaded.blob is not None:
                await self._directories.keep(loaded.blob, child.cid.link)
                return self._reference(child)
            if await self._publish(Plan(plan.path), loaded, _Edit()):
                return self._reference(child)
        raise WriteConflict(path, f"{MAX_ATTEMPTS} times another writer was faster: try again")

    def _reference(self, child: Capability, extra: Mapping[Cbor, Cbor] | None = None) -> DirRef:
        seconds, nanos = split_time(self._clock())
        return DirRef(
            kind=LinkKind.MUTABLE,
            link=child.cid.link,
            encryption_key=child.cid.encryption_key,
            timestamp=seconds,
            timestamp_nanos=nanos,
            extra={**(extra or {})},
        )

    # -- one revision -----------------------------------------------------------------------------

    async def _try(
        self, plan: Plan, loaded: Loaded, attempts: _Attempts, outcome: SlotsByPath
    ) -> bool:
        """Publish the next revision. Returns False where another writer did."""
        edit = await self._edit(plan, loaded, attempts)
        if edit is None:
            return False
        is_needed = not edit.is_empty or loaded.state is not State.PRESENT
        if is_needed and not await self._publish(plan, loaded, edit):
            return False
        outcome.update({(*plan.path, name): slot for name, slot in edit.results.items()})
        return True

    async def _edit(self, plan: Plan, loaded: Loaded, attempts: _Attempts) -> _Edit | None:
        """What to change in this very version; None: directories below must be looked at again."""
        edit = _Edit()
        looks = Looks(self._directories, loaded)
        slots = await self._directories.slots(loaded, {*attempts.prepared, *plan.changes})
        for name, ref in attempts.prepared.items():
            stored, slot = slots[name]
            path = format_path((*plan.path, name))
            # One that was deleted may have lost its name by now.
            replaces = attempts.replaced.get(name) if slot.directory is not None else None
            link = PutDirectory(path=path, ref=ref, replaces=replaces)
            if same_link(slot.directory, replaces):
                if slot.is_empty:
                    await looks.claim(path, name)
                edit.note(name, stored, slot, link.apply(slot))
            elif not link.is_done(slot):
                return None
        for name, changes in plan.changes.items() if not self._is_linking(attempts) else ():
            stored, slot = slots[name]
            base = attempts.bases.setdefault(name, slot)
            linked = edit.results.get(name, slot)
            result = _fold(changes, linked, is_same=slot == base)
            if slot.is_empty and linked.is_empty and not result.is_empty:
                await looks.claim(format_path((*plan.path, name)), name)
            edit.note(name, stored, slot, result)
        return edit

    async def _publish(self, plan: Plan, loaded: Loaded, edit: _Edit) -> bool:
        if loaded.revision >= MAX_REVISION:
            raise WriteConflict(
                f"the directory {loaded.path or '/'!a}",
                "it has the last revision there is, so nothing can be written to it any more: put "
                "its files into a new directory, and delete this one",
            )
        capability = loaded.capability
        if capability.write_key is None:
            raise AccessDenied(f"the directory {loaded.path!a} was shared for reading only")
        rewritten = await self._rewriting.rewrite(loaded, edit.before, edit.after)
        directory, encoded = self._directories.mark(rewritten.directory, rewritten.encoded, loaded)
        blob = await self._directories.store_directory(
            directory, encoded, capability, plan.unstored
        )
        if not plan.unstored:  # then they were stored before it was known where they will be
            reason = self._directories.reason("file", capability.cid.link)
            await self._directories.relabel(plan.new_files(), reason)
        plan.unstored.clear()
        is_sealed = capability.cid.encryption_key is not None
        try:
            await self._directories.publish(capability, loaded.revision + 1, blob)
        except LostRace as lost:
            if is_sealed and lost.is_certain:
                await self._directories.release([blob, *rewritten.stored])
            return False
        await self._release(loaded, edit, rewritten)
        return True

    async def _release(self, loaded: Loaded, edit: _Edit, rewritten: Rewritten) -> None:
        authorship = self._directories.authorship(loaded)
        is_sealed = loaded.capability.cid.encryption_key is not None
        dropped: set[Multihash] = set()
        if authorship is Authorship.OURS:
            named = {blob for slot in edit.after.values() for blob in named_blobs(slot.file)}
            own = {blob for slot in edit.before.values() for blob in own_blobs(slot.file)}
            dropped = own - named | set(rewritten.dropped if is_sealed else ())
        if authorship is not Authorship.OTHERS and is_sealed and loaded.blob is not None:
            dropped.add(loaded.blob)
        if dropped and await self._may_release():
            await self._directories.release(dropped)

    async def _wait(self, attempt: int) -> None:
        if attempt == 0:
            return
        bound = min(_MAX_WAIT, _FIRST_WAIT * 2**attempt)
        share = int.from_bytes(self._directories.random(4), "big") / (1 << 32)
        await anyio.sleep(bound * share)


def _fold(changes: Iterable[Change], slot: NameSlot, *, is_same: bool) -> NameSlot:
    """Apply the changes of one name, one after another.

    Raises:
        WriteConflict: another writer has changed it since the first attempt.
    """
    for change in changes:
        if not is_same:
            if not change.is_done(slot):
                raise WriteConflict(change.path, "two writers changed it at the same time")
            continue
        slot = change.apply(slot)
    return slot
