"""A scrub that goes on through restarts, and what is no rot."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from tests.integration.s5.store.conftest import Clock
from tests.integration.s5.store.helpers import LARGE, content, findings, flip, get
from tests.open_files import no_more_open_files

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import StorageError
from fabstir.s5.store import BlobStore, ScrubRound, open_store
from fabstir.s5.store import scrub as scrub_module

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

FAST = 1e12


async def test_a_round_goes_on_behind_a_restart(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_REPORT_BYTES", LARGE)  # one large blob a report
    async with open_store(folder, NATIVE, clock=clock) as store:
        blobs = [
            await store.put(content(number, LARGE), owner="a", reason="test") for number in range(5)
        ]
        assert await store.scrubbed() == ScrubRound()
        begun_at, num_reports = clock.now, 0
        async for _report in store.scrub_round(max_bytes_per_second=FAST):
            num_reports += 1
            if num_reports == 3:  # the third is not saved: who got it may not have seen to it
                break
    clock.now += 1000

    async with open_store(folder, NATIVE, clock=clock) as store:
        part = await store.scrubbed()
        flip(next((folder / "blobs").glob(f"*/{blobs[0].digest.hex()}.*")), 0)
        flip(next((folder / "blobs").glob(f"*/{blobs[2].digest.hex()}.*")), 0)
        rest = [report async for report in store.scrub_round(max_bytes_per_second=FAST)]
        whole = await store.scrubbed()
        again = [report async for report in store.scrub_round(max_bytes_per_second=FAST)]

        assert (part.cursor, part.started_at, part.finished_at) == ("blob:2", begun_at, None)
        assert (part.num_blobs, part.num_bytes) == (2, 2 * LARGE)
        found = [finding.blob for report in rest for finding in report.findings]
        assert found == [blobs[2]]
        assert whole == ScrubRound(
            started_at=begun_at, num_blobs=5, num_bytes=5 * LARGE, finished_at=clock.now
        )
        assert [f.blob for r in again for f in r.findings] == [blobs[0], blobs[2]]
        assert again[-1].num_blobs == 5
        assert await store.num_damaged() == 2


async def test_reports_come_often_enough_to_be_gone_on_behind(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "_REPORT_BYTES", 2 * LARGE)
    for number in range(5):
        await store.put(content(number, LARGE), owner="a", reason="test")

    reports = [report async for report in store.scrub(max_bytes_per_second=FAST)]

    blobs = [report.num_blobs for report in reports if report.cursor.startswith("blob:")]
    assert blobs == [2, 4, 5]


async def test_what_keeps_a_scrub_from_reading_is_no_rot(store: BlobStore) -> None:
    """A node with too many open files would stop serving sound blobs, one after another."""
    blob = await store.put(content("sound", LARGE), owner="a", reason="test")
    assert await findings(store) == []  # its connections to the database are open from here on

    with no_more_open_files(), pytest.raises(StorageError, match="Too many open files"):
        await findings(store)

    assert await get(store, blob) == content("sound", LARGE)
    assert await findings(store) == []


async def test_what_comes_meanwhile_is_for_the_next_round(store: BlobStore) -> None:
    await store.put(content("first", 10), owner="a", reason="test")
    num_blobs = 1

    with anyio.fail_after(20):
        async for report in store.scrub_round(max_bytes_per_second=FAST):
            num_blobs += 1
            await store.put(content(num_blobs, 10), owner="a", reason="test")
            assert report.num_blobs == 1

    assert (await store.scrubbed()).num_blobs == 1
