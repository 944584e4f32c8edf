"""A change to one name in a directory, as a rule that can be applied again after a conflict.

A change says what becomes of whatever is there now, so that after a conflict it is simply applied
to what somebody else wrote meanwhile. Two writers of different names never disturb each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fabstir.primitives.errors import NotFound, PathRefused, WriteConflict
from fabstir.s5.formats.directory import DirRef, FileRef
from fabstir.s5.fs.values import cid_of, versions_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NameSlot:
    """What a directory has under one name. Other writers may have a file and a directory there."""

    file: FileRef | None = None
    directory: DirRef | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the name is free."""
        return self.file is None and self.directory is None


class Change(Protocol):
    """One wish about one name."""

    @property
    def path(self) -> str:
        """For errors."""
        ...

    def apply(self, slot: NameSlot) -> NameSlot:
        """What there is afterwards.

        Raises:
            WriteConflict, NotFound, PathRefused: it cannot be done to this.
        """
        ...

    def is_done(self, slot: NameSlot) -> bool:
        """Whether somebody else, meanwhile, did just this."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFile:
    """A file takes the name; what was there is added to its history.

    Attributes:
        max_versions: how many older versions are kept.
        is_new: whether its blob was stored for this, and is released if this fails.
        if_match: the CID that must be there; if_none_match: nothing may be there.
    """

    path: str
    file: FileRef
    max_versions: int
    is_new: bool = True
    if_match: str | None = None
    if_none_match: bool = False

    def apply(self, slot: NameSlot) -> NameSlot:
        """Raises WriteConflict, PathRefused."""
        if slot.directory is not None:
            raise PathRefused(f"{self.path!a} is a directory: delete it, or choose another name")
        if self.if_none_match and slot.file is not None:
            raise WriteConflict(self.path, "a file of this name exists already")
        check_match(self.path, slot.file, self.if_match)
        older = [*versions_of(self.file)[1:], *(versions_of(slot.file) if slot.file else ())]
        return NameSlot(file=with_history(self.file, older, self.max_versions))

    def is_done(self, slot: NameSlot) -> bool:
        """The same content, however it is encrypted; or this very file, which a registry took and
        then said no, because its answer was lost on the way and somebody went on from there."""
        if slot.file is None:
            return False
        if self.file.encryption is not None and self.file.size > 0:
            versions = versions_of(slot.file)
            if any(version.hash == self.file.hash for version in versions):
                return True
        is_conditional = self.if_none_match or self.if_match is not None
        return not is_conditional and same_content(slot.file, self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFile:
    """A file goes, with its history."""

    path: str
    if_match: str | None = None

    def apply(self, slot: NameSlot) -> NameSlot:
        """Raises NotFound, WriteConflict."""
        if slot.file is None:
            raise NotFound(f"there is no file {self.path!a}")
        check_match(self.path, slot.file, self.if_match)
        return replace(slot, file=None)

    def is_done(self, slot: NameSlot) -> bool:
        """It is gone."""
        return slot.file is None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeAway:
    """A file that has another place now leaves this one, if it is still as it was taken.

    Attributes:
        is_strict: whether it must be; else what somebody else put there meanwhile stays.
    """

    path: str
    file: FileRef
    is_strict: bool

    def apply(self, slot: NameSlot) -> NameSlot:
        """Raises WriteConflict."""
        if slot.file == self.file:
            return replace(slot, file=None)
        if self.is_strict:
            raise WriteConflict(self.path, "it is another file than the one that is moved")
        return slot

    def is_done(self, slot: NameSlot) -> bool:
        """Another file, or none, is there."""
        return not self.is_strict and slot.file != self.file


@dataclass(frozen=True, slots=True, kw_only=True)
class EditFile:
    """A file is described differently, or shows another of its versions."""

    path: str
    edit: Callable[[FileRef], FileRef]
    if_match: str | None = None

    def apply(self, slot: NameSlot) -> NameSlot:
        """Raises NotFound, WriteConflict, and what `edit` raises."""
        if slot.file is None:
            raise NotFound(f"there is no file {self.path!a}")
        check_match(self.path, slot.file, self.if_match)
        return replace(slot, file=self.edit(slot.file))

    def is_done(self, slot: NameSlot) -> bool:
        """The edit would change nothing."""
        return slot.file is not None and self.edit(slot.file) == slot.file


@dataclass(frozen=True, slots=True, kw_only=True)
class PutDirectory:
    """A directory takes the name.

    Attributes:
        replaces: what must be there: None, or a directory that was deleted meanwhile.
    """

    path: str
    ref: DirRef
    replaces: DirRef | None = None

    def apply(self, slot: NameSlot) -> NameSlot:
        """Raises WriteConflict, PathRefused."""
        if slot.file is not None:
            raise PathRefused(f"{self.path!a} is a file: it can hold nothing")
        if not same_link(slot.directory, self.replaces):
            raise WriteConflict(self.path, "there is something already: choose another name")
        return NameSlot(directory=self.ref)

    def is_done(self, slot: NameSlot) -> bool:
        """The very same directory is there."""
        return same_link(slot.directory, self.ref)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDirectory:
    """A name no longer leads to a directory. One that was made anew meanwhile stays: it may have
    the same keys, and has another time."""

    path: str
    ref: DirRef

    def apply(self, slot: NameSlot) -> NameSlot:
        """Never raises."""
        return replace(slot, directory=None) if slot.directory == self.ref else slot

    def is_done(self, slot: NameSlot) -> bool:
        """It is gone."""
        return slot.directory != self.ref


@dataclass(frozen=True, slots=True, kw_only=True)
class EditDirectory:
    """A directory is described differently."""

    path: str
    edit: Callable[[DirRef], DirRef]

    def apply(self, slot: NameSlot) -> NameSlot:
        """Raises NotFound."""
        if slot.directory is None:
            raise NotFound(f"there is no directory {self.path!a}")
        return replace(slot, directory=self.edit(slot.directory))

    def is_done(self, slot: NameSlot) -> bool:
        """The edit would change nothing."""
        return slot.directory is not None and self.edit(slot.directory) == slot.directory


def check_match(path: str, file: FileRef | None, if_match: str | None) -> None:
    """Raises WriteConflict: it is another version than the caller has seen."""
    if if_match is None:
        return
    if file is None:
        raise WriteConflict(path, f"{if_match} was expected there, and it does not exist")
    if cid_of(file) != if_match:
        raise WriteConflict(path, f"{if_match} was expected there, and it is {cid_of(file)}")


def with_history(newest: FileRef, older: Sequence[FileRef], max_versions: int) -> FileRef:
    """A file whose `prev` leads to the older ones, newest first; `newest` is left out of them."""
    kept = [version for version in older if version.hash != newest.hash][:max_versions]
    previous: FileRef | None = None
    for version in reversed(kept):
        previous = replace(version, prev=previous)
    return replace(newest, prev=previous)


def same_content(one: FileRef, other: FileRef) -> bool:
    """Whether two files certainly hold the same bytes, and both or neither are encrypted."""
    if one.size != other.size:
        return False
    if one.encryption is None or other.encryption is None:
        return one.encryption is other.encryption and one.hash == other.hash
    hashes = {one.encryption.plaintext_hash, other.encryption.plaintext_hash}
    return len(hashes) == 1 and None not in hashes


def same_link(one: DirRef | None, other: DirRef | None) -> bool:
    """Whether two references lead to the same directory."""
    if one is None or other is None:
        return one is other
    return (one.kind, one.link) == (other.kind, other.link)
