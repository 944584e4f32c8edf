"""SIGKILL at any point of puts, resumable uploads, pins, collections and scrubs: what was
acknowledged is there afterwards, and nothing else."""

from __future__ import annotations

import multiprocessing
import sys
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from random import Random

import anyio
import pytest
from tests.integration.s5.store.helpers import files, findings, get
from tests.integration.s5.store.store_child import (
    ACKNOWLEDGED,
    NUM_CONTENTS,
    OWNERS,
    POINTS,
    UPLOADS,
    content_of,
    run_child,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.s5.store import BlobStore, StoreUsage, open_store
from fabstir.s5.tables.tus import list_uploads
from fabstir.s5.transfer.resumable import ResumableUploads, open_resumable_uploads

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([run_child.__module__])  # a second of imports, once

RANDOM_MOMENTS = "at a random moment"
MAX_PASSES = {"a write": 8, "a transaction": 40, "a link": 4}
"""The point is passed up to so many times before the kill; 12 elsewhere."""

CONTENTS = [content_of(number) for number in range(NUM_CONTENTS)]
NAMES = [Multihash(NATIVE.blake3(data)) for data in CONTENTS]


class Model:
    """What must be pinned, by owner; and what one interrupted step of each may have changed."""

    def __init__(self) -> None:
        self.pinned: dict[str, set[int]] = {owner: set() for owner in OWNERS}
        self.begun: dict[str, int] = {}
        self.num_uploaded: dict[str, int] = {}
        """Bytes that are acknowledged of an owner's upload."""
        self.num_acknowledged = 0

    def take(self, step: str, owner: str, number: int) -> None:
        """A message of the child."""
        if step == "open":
            return
        if step.startswith(ACKNOWLEDGED):
            self.num_uploaded[owner] = int(step.removeprefix(ACKNOWLEDGED))
            return
        if not step.endswith(": done"):
            self.begun[owner] = number
            return
        del self.begun[owner]
        self.num_uploaded.pop(owner, None)
        self.num_acknowledged += 1
        if step.startswith("drop"):
            self.pinned[owner].discard(number)
        elif not step.startswith("nothing"):
            self.pinned[owner].add(number)

    async def check_uploads(
        self, uploads: ResumableUploads, store: BlobStore, folder: Path
    ) -> None:
        """Every upload goes on where it was acknowledged to be, or is a blob."""
        await uploads.finish_complete()
        rows = [row for row in await store.db.read(list_uploads) if row.blob is None]
        assert {path.name for path in folder.iterdir()} <= {row.id for row in rows}
        for row in rows:
            number = int(row.metadata)
            assert self.begun[row.owner] == number
            assert self.num_uploaded.pop(row.owner, 0) <= row.offset < row.length
            kept = (folder / row.id).read_bytes() if row.offset else b""
            assert kept[: row.offset] == CONTENTS[number][: row.offset]
            await uploads.terminate(row.id, row.owner)
        for owner, num_bytes in self.num_uploaded.items():
            assert num_bytes, owner
            assert await store.size(NAMES[self.begun[owner]]), (
                "its upload is neither here nor there"
            )
        self.num_uploaded.clear()
        assert list(folder.iterdir()) == []

    async def check(self, store: BlobStore, folder: Path) -> None:
        """Hold the store to it, and take over what the interrupted steps did."""
        for owner in OWNERS:
            pinned = {NAMES.index(pin.blob.multihash) async for pin in store.pins(owner)}
            unclear = {self.begun.pop(owner)} if owner in self.begun else set[int]()
            assert pinned - unclear == self.pinned[owner] - unclear, owner
            self.pinned[owner] = pinned
            for number in pinned:
                assert await get(store, NAMES[number]) == CONTENTS[number]
            num_bytes = sum(len(CONTENTS[number]) for number in pinned)
            assert await store.usage(owner) == StoreUsage(
                num_blobs=len(pinned), num_bytes=num_bytes
            )
        kept = [number for number in range(NUM_CONTENTS) if await store.size(NAMES[number])]
        num_bytes = sum(len(CONTENTS[number]) for number in kept)
        assert await store.usage() == StoreUsage(num_blobs=len(kept), num_bytes=num_bytes)
        assert len(files(folder)) == sum(len(CONTENTS[number]) >= 131_072 for number in kept)
        assert await findings(store) == []


def kill_once(folder: Path, model: Model, seed: int, point: str | None, count: int) -> None:
    """Let a child work until it kills itself at the point, or kill it at a random moment."""
    ours, theirs = processes.Pipe()
    process = processes.Process(target=run_child, args=(theirs, folder, seed, point, count))
    process.start()
    theirs.close()
    num_messages = 0
    try:
        while point is not None or num_messages < count:
            model.take(*ours.recv())
            num_messages += 1
        process.kill()
        drain(ours, model)
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()
        ours.close()
    assert process.exitcode == -9


def drain(pipe: Pipe, model: Model) -> None:
    with suppress(EOFError):
        while True:
            model.take(*pipe.recv())


async def kill_many(folder: Path, num_kills: int) -> dict[str, int]:
    """Kill a store again and again, at every point and between them."""
    model, random, cases = Model(), Random(num_kills), dict[str, int]()
    moments = [*POINTS, RANDOM_MOMENTS, RANDOM_MOMENTS]
    for number in range(num_kills):
        moment = moments[number % len(moments)]
        point = None if moment == RANDOM_MOMENTS else moment
        passes = next((n for name, n in MAX_PASSES.items() if moment.endswith(name)), 12)
        count = random.randint(1, 60 if point is None else passes)
        await anyio.to_thread.run_sync(kill_once, folder, model, number, point, count)
        async with (
            open_store(folder, NATIVE) as store,
            open_resumable_uploads(store, folder / UPLOADS) as uploads,
        ):
            await model.check_uploads(uploads, store, folder / UPLOADS)
            await model.check(store, folder)
        cases[moment] = cases.get(moment, 0) + 1
    cases["acknowledged steps"] = model.num_acknowledged
    return cases


async def test_sigkill_loses_nothing_acknowledged(folder: Path) -> None:
    cases = await kill_many(folder, 20)

    assert set(cases) >= set(POINTS)
    assert cases["acknowledged steps"] > 100


@pytest.mark.heavy
async def test_sigkill_many_times(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    num_kills = 240

    cases = await kill_many(folder, num_kills)

    lines = [f"  {number:6} {name}" for name, number in cases.items()]
    with capsys.disabled():
        sys.stdout.write(f"\n{num_kills} kills of the store, acknowledged = readable after each:\n")
        sys.stdout.write("\n".join([*lines, ""]))
