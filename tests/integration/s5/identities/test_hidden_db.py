"""The hidden DB on a real store, and S5.js's accounts.json in it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import NotFound, RemoteProtocolError, WriteConflict
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.hidden_db import ACCOUNTS_PATH
from fabstir.s5.identities.hidden import HiddenAccounts, HiddenDb, HiddenFile
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry, open_store

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ROOT = Identity(bytes(range(16)), NATIVE).hidden_db_root()
URL = "https://s5.example"
SEED = bytes(range(32))
NEW = HiddenFile(None, -1, None)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[BlobStore]:
    async with open_store(tmp_path, NATIVE) as store:
        yield store


@pytest.fixture
def db(store: BlobStore) -> HiddenDb:
    return HiddenDb(LocalBlobs(store, "me"), LocalRegistry(store, NATIVE), ROOT, NATIVE)


@pytest.fixture
def accounts(db: HiddenDb) -> HiddenAccounts:
    return HiddenAccounts(db, now=lambda: datetime(2026, 1, 2, tzinfo=UTC))


async def test_what_was_written_is_read(db: HiddenDb, store: BlobStore) -> None:
    assert await db.read("a/b") == NEW

    written = await db.write("a/b", b"first", replaces=NEW)
    again = await db.write("a/b", b"second", replaces=written)

    assert await db.read("a/b") == again
    assert (again.data, again.revision) == (b"second", 1)
    assert await db.read("a/c") == NEW
    assert (await store.usage("me")).num_blobs == 1  # the first one was released


async def test_nothing_of_it_is_in_clear(db: HiddenDb, store: BlobStore) -> None:
    written = await db.write("a", b"secret" * 10, replaces=NEW)

    assert written.blob is not None
    sealed = await store.get(written.blob, max_bytes=10_000)
    assert b"secret" not in sealed
    assert len(sealed) == 4096
    assert "secret" not in repr(written)


async def test_of_two_writers_one_is_told(db: HiddenDb, store: BlobStore) -> None:
    await db.write("a", b"first", replaces=NEW)

    with pytest.raises(WriteConflict):
        await db.write("a", b"other", replaces=NEW)

    assert (await db.read("a")).data == b"first"
    assert (await store.usage("me")).num_blobs == 1


async def test_a_lost_blob_keeps_its_revision(db: HiddenDb, store: BlobStore) -> None:
    written = await db.write("a", b"data", replaces=NEW)
    assert written.blob is not None
    await store.unpin("me", [written.blob])
    await store.collect(grace_seconds=0)
    with pytest.raises(NotFound):
        await store.get(written.blob, max_bytes=10_000)

    lost = await db.read("a")
    await db.write("a", b"again", replaces=lost)

    assert (lost.data, lost.revision) == (None, 0)
    assert (await db.read("a")).data == b"again"


async def test_accounts_are_found_on_another_machine(
    accounts: HiddenAccounts, db: HiddenDb
) -> None:
    assert await accounts.find(URL) is None

    await accounts.remember(URL, SEED)
    await accounts.remember("http://127.0.0.1:5522", bytes(32))
    await accounts.remember(URL, SEED)

    assert await HiddenAccounts(db).find("https://S5.example:443/") == SEED
    assert await accounts.find("http://127.0.0.1:5522") == bytes(32)
    assert (await db.read(ACCOUNTS_PATH)).revision == 1


async def test_the_file_is_that_of_s5js(accounts: HiddenAccounts, db: HiddenDb) -> None:
    name = "s5.example:AAECAwQFBgcICQoL"

    await accounts.remember(URL, SEED)

    data = (await db.read(ACCOUNTS_PATH)).data
    assert data is not None
    assert json.loads(data) == {
        "accounts": {
            name: {
                "url": URL,
                "seed": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
                "createdAt": "2026-01-02T00:00:00.000Z",
            }
        },
        "active": [name],
        "uploadOrder": {"default": [name]},
    }


async def test_what_else_stands_there_stays(accounts: HiddenAccounts, db: HiddenDb) -> None:
    kept = {"accounts": {}, "uploadOrder": {"default": [], "video": ["x"]}, "version": 2}
    await db.write(ACCOUNTS_PATH, json.dumps(kept).encode(), replaces=NEW)

    await accounts.remember(URL, SEED)

    data = (await db.read(ACCOUNTS_PATH)).data
    assert data is not None
    assert json.loads(data)["version"] == 2
    assert json.loads(data)["uploadOrder"]["video"] == ["x"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"accounts":[]}',
        b'{"active":{}}',
        b'{"uploadOrder":{"default":1}}',
        b'{"accounts":{"a":1}}',
        b'{"accounts":{"a":{"url":"x","seed":""}}}',
    ],
)
async def test_another_file_is_refused_and_kept(
    accounts: HiddenAccounts, db: HiddenDb, content: bytes
) -> None:
    await db.write(ACCOUNTS_PATH, content, replaces=NEW)

    with pytest.raises(RemoteProtocolError):
        await accounts.find(URL)
    with pytest.raises(RemoteProtocolError):
        await accounts.remember(URL, SEED)

    assert (await db.read(ACCOUNTS_PATH)).data == content
