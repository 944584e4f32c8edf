"""The process that the kill tests kill: puts, resumable uploads, pins, unpins, reads, collections
and scrubs, all at once, for ever.

It says what it begins and what was acknowledged; a message is in the pipe before the next step, so
the parent has it whatever happens. At a named point it kills itself, as `kill -9` does: in the
middle of a system call's neighbours, not where Python would like it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import anyio
import pytest
from sqlalchemy import Connection
from tests.integration.s5.store.helpers import content

from fabstir.crypto import NATIVE
from fabstir.db import Database
from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import NotFound
from fabstir.s5.store import BlobStore, open_store
from fabstir.s5.store import _files as store_files
from fabstir.s5.transfer.resumable import ResumableUploads, open_resumable_uploads

T = TypeVar("T")

UPLOADS: Final = "uploads"
ACKNOWLEDGED: Final = "acknowledged: "
OWNERS: Final = ("a", "b", "c")
NUM_CONTENTS: Final = 24
POINTS: Final = (
    "before a write",
    "after a write",
    "before a file is flushed",
    "after a file is flushed",
    "before an upload is flushed",
    "after an upload is flushed",
    "before a link",
    "after a link",
    "before a rename",
    "after a rename",
    "before a folder is flushed",
    "after a folder is flushed",
    "before a removal",
    "after a removal",
    "before a transaction",
    "inside a transaction",
    "after a transaction",
)


def content_of(number: int) -> bytes:
    """One of a few contents that the owners fight over: every third is a file, some of 3 blocks."""
    random = Random(number)
    if number % 3:
        return content(number, random.randrange(5_000))
    return content(number, random.choice([131_072, 200_000, 2_200_000]))


class Points:
    """Kills this process when it passes one of them for the n-th time."""

    def __init__(self, name: str | None, count: int) -> None:
        self._name = name
        self._remaining = count

    def passed(self, name: str) -> None:
        if name == self._name:
            self._remaining -= 1
            if self._remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, fn: Callable[..., T]) -> Callable[..., T]:
        def wrapped(*args: Any, **kwargs: Any) -> T:
            self.passed(f"before {what}")
            result = fn(*args, **kwargs)
            self.passed(f"after {what}")
            return result

        return wrapped

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for owner, name, what in (
            (os, "write", "a write"),
            (os, "fdatasync", "a file is flushed"),
            (os, "fsync", "an upload is flushed"),
            (os, "link", "a link"),
            (Path, "replace", "a rename"),
            (Path, "unlink", "a removal"),
            (store_files, "sync_folder", "a folder is flushed"),
        ):
            patch.setattr(owner, name, self.around(what, getattr(owner, name)))
        write = Database.write

        async def stepping(db: Database, fn: Callable[[Connection], T], *, durable: bool) -> T:
            def inside(connection: Connection) -> T:
                result = fn(connection)
                self.passed("inside a transaction")
                return result

            self.passed("before a transaction")
            result = await write(db, inside, durable=durable)
            self.passed("after a transaction")
            return result

        patch.setattr(Database, "write", stepping)


def run_child(pipe: Pipe, folder: Path, seed: int, point: str | None, count: int) -> None:
    """Entry point of the process."""
    anyio.run(_work, pipe, folder, seed, Points(point, count))


async def _work(pipe: Pipe, folder: Path, seed: int, points: Points) -> None:
    with pytest.MonkeyPatch.context() as patch:
        async with (
            open_store(folder, NATIVE) as store,
            open_resumable_uploads(store, folder / UPLOADS) as uploads,
        ):
            points.install(patch)
            pipe.send(("open", "", 0))
            async with anyio.create_task_group() as tasks:
                for owner in OWNERS:
                    random = Random(f"{seed}/{owner}")
                    tasks.start_soon(_own, store, uploads, pipe, owner, random)
                tasks.start_soon(_collect, store)
                tasks.start_soon(_scrub, store)
                tasks.start_soon(_read, store, Random(seed))


async def _own(
    store: BlobStore, uploads: ResumableUploads, pipe: Pipe, owner: str, random: Random
) -> None:
    while True:
        number = random.randrange(NUM_CONTENTS)
        data = content_of(number)
        name = Multihash(NATIVE.blake3(data))
        step = random.choice(["put", "put", "stream", "upload", "upload", "pin", "drop", "drop"])
        pipe.send((step, owner, number))
        if step == "put":
            await store.put(data, owner=owner, reason="test")
        elif step == "stream":
            await store.put(_pieces(data), owner=owner, reason="test")
        elif step == "upload":
            expected = random.choice([name, None])
            await _upload(uploads, pipe, owner, number, expected)
        elif step == "drop":
            await store.unpin(owner, [name])
        else:
            try:
                await store.pin(owner, [name], reason="test")
            except NotFound:
                step = "nothing"
        pipe.send((f"{step}: done", owner, number))


async def _upload(
    uploads: ResumableUploads, pipe: Pipe, owner: str, number: int, expected: Multihash | None
) -> None:
    """In two requests, the second of which gives the whole to the store."""
    data = content_of(number)
    upload = await uploads.create(
        owner, len(data), expected=expected, metadata=str(number), quota=None
    )
    if upload.blob is None:
        middle = len(data) // 2
        upload = await uploads.append(upload.id, owner, 0, _pieces(data[:middle]))
        pipe.send((f"{ACKNOWLEDGED}{upload.offset}", owner, number))
        upload = await uploads.append(upload.id, owner, middle, _pieces(data[middle:]))
    assert upload.blob is not None
    assert upload.blob.digest == NATIVE.blake3(data)


async def _scrub(store: BlobStore) -> None:
    """What the others do meanwhile is nothing that is wrong."""
    while True:
        async for report in store.scrub(max_bytes_per_second=1e12):
            assert not report.findings, report.findings


async def _read(store: BlobStore, random: Random) -> None:
    while True:
        data = content_of(random.randrange(NUM_CONTENTS))
        with suppress(NotFound):
            pieces = [piece async for piece in store.read(Multihash(NATIVE.blake3(data)))]
            assert b"".join(pieces) == data
        await anyio.lowlevel.checkpoint()


async def _collect(store: BlobStore) -> None:
    while True:
        await store.collect(grace_seconds=0)
        await anyio.lowlevel.checkpoint()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]
        await anyio.lowlevel.checkpoint()
