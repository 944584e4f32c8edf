"""Which blobs only one entry can name, so that they may be deleted with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from fabstir.primitives.cid import Multihash
from fabstir.s5.formats.directory import FileRef
from fabstir.s5.fs.values import OWN_PREFIX, versions_of

SHARED: Final = f"{OWN_PREFIX}shared"
"""Beside a file whose blob may be named in a second place: only `vacuum` releases it."""


def own_blobs(file: FileRef | None) -> Iterable[Multihash]:
    """The blobs of a file and its history that nothing else names: those with a key of their own.

    A blob in clear has the same hash wherever its content is kept, and so has an empty one.
    """
    for version in versions_of(file) if file is not None else ():
        is_own = version.encryption is not None and version.size > 0
        if is_own and SHARED not in version.extra:
            yield Multihash(version.hash)


def named_blobs(file: FileRef | None) -> Iterable[Multihash]:
    """All blobs of a file and its history."""
    for version in versions_of(file) if file is not None else ():
        yield Multihash(version.hash)


def mark_shared(file: FileRef) -> FileRef:
    """The same file and history, whose blobs may be named in a second place from now on."""
    marked: FileRef | None = None
    for version in reversed(versions_of(file)):
        marked = replace(version, extra={**version.extra, SHARED: True}, prev=marked)
    assert marked is not None, "a file has at least one version"
    return marked
