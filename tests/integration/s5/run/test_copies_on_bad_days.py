"""Copies at a portal that loses, changes and refuses them, round by round, seen from a node."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection
from tests.integration.s5.portals.faulty import FaultyPortal, open_faulty_portal
from tests.integration.s5.portals.raw_http import refuse
from tests.integration.s5.run.conftest import eventually, s5_settings

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import CorruptBlob
from fabstir.protocol.fields import Fields
from fabstir.s5.formats.registry import SignedEntry, sign_entry
from fabstir.s5.portals import sign_in
from fabstir.s5.run.commands import S5Commands
from fabstir.s5.run.parts import S5, open_s5_parts
from fabstir.s5.run.portal_accounts import account_file
from fabstir.s5.store import LocalRegistry
from fabstir.s5.tables.replicas import Replica, ReplicaState, save_stored
from fabstir.s5.transfer.replication import MAX_CHECKED, MAX_MENDED, Replication
from fabstir.web.control import Asked

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CONTENT = bytes(range(256)) * 1024
"""256 KiB: a file of the store, and more than one sample of a look at it."""

DAY = 86_400.0


@pytest.fixture
async def portal() -> AsyncGenerator[FaultyPortal]:
    async with open_faulty_portal() as opened:
        yield opened


@asynccontextmanager
async def node_of(folder: Path, portal: FaultyPortal | None) -> AsyncGenerator[S5]:
    """A node without rounds of its own, and with an account: entering by itself, it would write
    the list of its accounts, one more blob with copies."""
    overrides = {} if portal is None else {"portals": portal.url, "replicas": "2"}
    async with open_s5_parts(s5_settings(folder, **overrides)) as parts:
        file = account_file(parts.folder)
        for one in parts.pool.portals:
            if one.session.token is None:
                one.session = await sign_in(
                    one.http, parts.identity, file, random_bytes=secrets.token_bytes
                )
        yield parts


def tomorrow(
    parts: S5, *, random_below: Callable[[int], int] = lambda below: below // 2
) -> Replication:
    """The node's replication a day later, when every copy is due to be looked at."""
    return Replication(
        parts.node,
        LocalRegistry(parts.store, NATIVE),
        parts.pool,
        parts.uploads,
        NATIVE,
        num_copies=2,
        seconds=1.0,
        enter=parts.accounts.enter_if_needed,
        clock=lambda: time.time() + DAY,
        random_below=random_below,
    )


async def copies(parts: S5, blob: BlobId) -> Sequence[Replica]:
    """Those that have arrived."""
    return [c for c in await parts.replication.where(blob) if c.state is ReplicaState.STORED]


async def stored_with_copy(parts: S5, content: bytes = CONTENT) -> BlobId:
    """A blob that the portal has as well."""
    blob = await parts.node.blobs("me").put(content, reason="test")
    await parts.replication.round()
    await eventually(lambda: copies(parts, blob))
    return blob


@pytest.mark.parametrize("is_whole", [False, True], ids=["sample", "whole"])
async def test_a_copy_with_other_bytes_is_found_and_made_again(
    portal: FaultyPortal, tmp_path: Path, is_whole: bool
) -> None:
    async with node_of(tmp_path, portal) as parts:
        blob = await stored_with_copy(parts)
        # A look at all of it finds one bit; a sample finds what is wrong where it looks.
        wrong = bytearray(CONTENT) if is_whole else bytearray(len(CONTENT))
        wrong[7] ^= 1
        portal.blobs[blob.multihash] = bytes(wrong)
        later = tomorrow(parts, random_below=lambda below: 0 if is_whole else below // 2)

        first = await later.round()
        second = await later.round()
        await eventually(lambda: copies(parts, blob))

        assert (first.num_checked, first.num_lost) == (1, 1)
        assert second.num_lost == 0
        assert portal.blobs[blob.multihash] == CONTENT


async def test_waiting_for_the_queue_waits_for_a_portal_that_is_away(
    portal: FaultyPortal, tmp_path: Path
) -> None:
    """No upload waits for it: it was given none, because it did not answer."""
    heard = anyio.Event()
    answers: list[Json] = []

    async def report(_progress: Json) -> None:
        heard.set()

    async with node_of(tmp_path, portal) as parts:
        blob = await parts.node.blobs("me").put(CONTENT, reason="test")
        commands = S5Commands(parts, makes_copies=True)

        async def wait() -> None:
            asked = Asked(Fields({"wait": True}, "the request"), report)
            answers.append(await commands.queue(asked))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await heard.wait()
                assert not answers
                await parts.replication.round()  # it is back

        assert answers == [{"uploads": [], "num_missing": 0}]
        assert await copies(parts, blob)


async def test_a_sound_copy_is_left_alone(portal: FaultyPortal, tmp_path: Path) -> None:
    async with node_of(tmp_path, portal) as parts:
        blob = await stored_with_copy(parts)
        empty = await stored_with_copy(parts, b"")

        looked = await tomorrow(parts).round()

        assert (looked.num_checked, looked.num_lost, looked.num_queued) == (2, 0, 0)
        assert await copies(parts, blob)
        assert await copies(parts, empty)


async def test_a_portal_that_does_not_answer_has_lost_nothing(
    portal: FaultyPortal, tmp_path: Path
) -> None:
    async with node_of(tmp_path, portal) as parts:
        blob = await stored_with_copy(parts)
        portal.fail("GET /s5/", *[refuse(503, b"back soon")] * 20)

        looked = await tomorrow(parts).round()

        assert (looked.num_checked, looked.num_lost) == (1, 0)
        assert await copies(parts, blob)


async def test_a_portal_that_is_named_no_more_is_neither_looked_at_nor_written_to(
    portal: FaultyPortal, tmp_path: Path
) -> None:
    async with node_of(tmp_path, portal) as parts:
        kept = await stored_with_copy(parts)
        unpinned = await stored_with_copy(parts, b"not wanted any more")
        await parts.store.unpin("me", [unpinned.multihash])
    num_requests = len(portal.requests)

    async with node_of(tmp_path, None) as parts:
        done = await tomorrow(parts).round()
        assert (done.num_checked, done.num_released) == (0, 0)
        assert len(portal.requests) == num_requests
    async with node_of(tmp_path, portal) as parts:
        done = await tomorrow(parts).round()

        assert (done.num_checked, done.num_lost, done.num_released) == (2, 0, 1)
        assert portal.pinned() == {kept.multihash}


async def test_many_copies_at_a_portal_that_is_named_no_more_keep_no_others_waiting(
    portal: FaultyPortal, tmp_path: Path
) -> None:
    async with node_of(tmp_path, portal) as parts:
        await stored_with_copy(parts)
        unpinned = await stored_with_copy(parts, b"not wanted any more")
        await parts.store.unpin("me", [unpinned.multihash])

        def elsewhere(connection: Connection) -> None:
            for number in range(2 * MAX_CHECKED):
                blob = BlobId(number.to_bytes(32, "big"), 1)
                save_stored(connection, blob, "http://gone.example", 0.0)

        await parts.store.db.write(elsewhere, durable=True)

        done = await tomorrow(parts).round()

        assert (done.num_checked, done.num_lost, done.num_released) == (2, 0, 1)


async def test_many_blobs_that_nobody_can_mend_keep_no_others_waiting(
    portal: FaultyPortal, tmp_path: Path
) -> None:
    contents = [bytes([number]) * 200_000 for number in range(MAX_MENDED + 4)]
    async with node_of(tmp_path, None) as parts:
        blobs = [await parts.node.blobs("me").put(data, reason="test") for data in contents]
        for file in (path for path in (parts.folder / "blobs").rglob("*") if path.is_file()):
            file.write_bytes(b"\xff" * 200_000)
        for blob in blobs:
            with pytest.raises(CorruptBlob):
                await parts.store.get(blob.multihash, max_bytes=200_000)
    portal.add(contents[-1])

    async with node_of(tmp_path, portal) as parts:
        for _ in range(40):
            if (await parts.replication.round()).num_mended:
                break

        assert await parts.store.get(blobs[-1].multihash, max_bytes=200_000) == contents[-1]


async def test_a_copy_that_cannot_be_taken_back_now_is_taken_back_later(
    portal: FaultyPortal, tmp_path: Path
) -> None:
    async with node_of(tmp_path, portal) as parts:
        blob = await stored_with_copy(parts)
        await parts.store.unpin("me", [blob.multihash])
        portal.fail("DELETE /s5/delete", refuse(403, b"not now"))

        refused = await parts.replication.round()
        assert refused.num_released == 0
        assert portal.pinned() == {blob.multihash}
        taken_back = await parts.replication.round()

        assert taken_back.num_released == 1
        assert portal.pinned() == set()
        assert await parts.replication.where(blob) == []


async def test_what_is_gone_here_is_not_lost_there_but_taken_back(
    portal: FaultyPortal, tmp_path: Path
) -> None:
    # The portal was away for so long that the blob is collected here before its copy is unpinned.
    async with node_of(tmp_path, portal) as parts:
        blob = await stored_with_copy(parts)
        await parts.store.unpin("me", [blob.multihash])
        await parts.store.collect(grace_seconds=-1)
        assert await parts.store.size(blob.multihash) is None

        done = await tomorrow(parts).round()

        assert (done.num_lost, done.num_released) == (0, 1)
        assert portal.pinned() == set()


async def test_a_round_mends_what_has_rotted_here_and_says_what_it_cannot(
    portal: FaultyPortal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_of(tmp_path, portal) as parts:
        blob = await stored_with_copy(parts)
        (file,) = (path for path in (parts.folder / "blobs").rglob("*") if path.is_file())
        file.write_bytes(b"\0" * len(CONTENT))
        with pytest.raises(CorruptBlob):
            await parts.store.get(blob.multihash, max_bytes=len(CONTENT))
        portal.fail("GET /s5/", *[refuse(404, b"gone")] * 8)

        with caplog.at_level(logging.WARNING, "fabstir.s5.transfer.replication"):
            failed = await parts.replication.round()
        portal.server.faults.clear()
        mended = await parts.replication.round()

        assert (failed.num_mended, mended.num_mended) == (0, 1)
        assert "a damaged blob was not replaced" in caplog.text
        assert await parts.store.get(blob.multihash, max_bytes=len(CONTENT)) == CONTENT
        assert [pin.owner async for pin in parts.store.pins()] == ["me"]


async def test_our_newest_entry_waits_for_its_portal(portal: FaultyPortal, tmp_path: Path) -> None:
    async with node_of(tmp_path, portal) as parts:
        key = parts.identity.file_system_root().public_key
        portal.fail("POST /s5/registry", *[refuse(403, b"not now")] * 100)
        await parts.files.put("a.txt", b"first")
        await eventually(lambda: has_no_missing(parts))

        refused = await parts.replication.round()
        assert refused.num_published == 0
        assert key not in portal.entries
        portal.server.faults.clear()
        published = await parts.replication.round()

        assert published.num_published == 1
        assert portal.entries[key] == await LocalRegistry(parts.store, NATIVE).get(key)


async def test_an_entry_that_somebody_overtook_is_not_sent_for_ever(
    portal: FaultyPortal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_of(tmp_path, portal) as parts:
        root = parts.identity.file_system_root()
        portal.fail("POST /s5/registry", *[refuse(403, b"not now")] * 100)
        await parts.files.put("a.txt", b"first")
        await eventually(lambda: has_no_missing(parts))
        portal.server.faults.clear()
        # Another machine of this identity was there before.
        theirs: SignedEntry = sign_entry(root.write_key, 9, b"", NATIVE)
        portal.entries[root.public_key] = theirs

        with caplog.at_level(logging.WARNING, "fabstir.s5.transfer.replication"):
            overtaken = await parts.replication.round()
        num_requests = len(portal.requests)
        after = await parts.replication.round()

        assert overtaken.num_published == 1
        assert "a registry entry is older than another" in caplog.text
        assert portal.entries[root.public_key] == theirs
        assert after.num_published == 0
        assert len(portal.requests) == num_requests


async def has_no_missing(parts: S5) -> bool:
    await parts.replication.round()
    return await parts.replication.num_missing() == 0
