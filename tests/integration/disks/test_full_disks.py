"""A disk that is full: all can be read and removed, nothing is lost, and the text says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests import small_disk
from tests.integration.disks import journal_child, store_child

from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.primitives.errors import ConfigError
from fabstir.s5.store import open_store

pytestmark = [pytest.mark.integration]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


REPOSITORY = Path(small_disk.__file__).parents[1]


def run_child(module: ModuleType, folder: Path) -> None:
    if not small_disk.can_mount():
        pytest.skip("no user namespaces here: a small file system cannot be mounted")
    disk = folder / "disk"
    disk.mkdir()
    python = [sys.executable, "-m", module.__name__, str(disk)]
    done = subprocess.run(
        [*small_disk.NEW_NAMESPACE, *python],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr


def test_a_store_on_a_full_disk_is_read_and_emptied(tmp_path: Path) -> None:
    run_child(store_child, tmp_path)


def test_a_journal_on_a_full_disk_is_opened_and_written(tmp_path: Path) -> None:
    run_child(journal_child, tmp_path)


@pytest.mark.anyio
async def test_no_second_tree_is_begun_beside_a_database_that_was_lost(tmp_path: Path) -> None:
    """Also where all blobs were short, and so in the database: nothing is left of them."""
    database = tmp_path / "store.sqlite"
    async with open_store(tmp_path, NATIVE) as store:
        blob = await store.put(b"short", owner="a", reason="test")
    kept = database.read_bytes()

    for lose in (database.unlink, database.touch, lambda: emptied(database)):
        lose()
        with pytest.raises(ConfigError, match="Restore it from a copy"):
            async with open_store(tmp_path, NATIVE):
                pass

    database.write_bytes(kept)
    async with open_store(tmp_path, NATIVE) as store:
        assert await store.get(blob.multihash, max_bytes=10) == b"short"


@pytest.mark.anyio
async def test_no_second_journal_is_begun_beside_one_that_was_lost(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/host.sqlite"
    async with open_database(url):
        pass
    (tmp_path / "host.sqlite").write_bytes(b"")

    with pytest.raises(ConfigError, match="nothing else knows what it held"):
        async with open_database(url):
            pass


@pytest.mark.anyio
async def test_no_advice_costs_a_database_that_cannot_be_used(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/host.sqlite"
    (tmp_path / "host.sqlite").write_bytes(b"not a database at all, but long enough" * 200)

    with pytest.raises(ConfigError, match="Keep it, with the files of its name") as caught:
        async with open_database(url):
            pass

    assert "away" not in str(caught.value)


def emptied(database: Path) -> None:
    """What `sqlite3 store.sqlite VACUUM` makes of a file that is not there."""
    database.unlink()
    command = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version = 1')"
    subprocess.run([sys.executable, "-c", command, str(database)], check=True)
    assert database.stat().st_size
