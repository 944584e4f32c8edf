"""Files and folders of ours: for their owner alone, and by way of no planted link or name."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import pytest
from sqlalchemy import Connection

from fabstir.chain.keystore import read_secret_file
from fabstir.crypto import NATIVE
from fabstir.db import make_data_folder, open_database
from fabstir.db.files import make_private_folder
from fabstir.p2p._identity import load_or_create_identity
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ConfigError, KeystoreError, StorageError
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.identities.node_secrets import load_owner_token
from fabstir.s5.store import LocalRegistry, export_archive, import_archive, open_store
from fabstir.s5.tables.blobs import doom
from fabstir.s5.transfer._part import open_part

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
async def test_folders_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "data"

    make_data_folder(folder)
    async with open_store(folder / "s5", NATIVE) as store:
        await store.put(bytes(200_000), owner="a", reason="test")
        await export_archive(store, folder / "all.s5car")

    found = [path for path in [folder.parent, *folder.parent.rglob("*")] if path.is_dir()]
    assert {path.name: oct(mode(path)) for path in found if mode(path) != 0o700} == {}
    assert mode(folder / "all.s5car") & 0o077 == 0


def test_a_folder_that_others_may_write_in_is_closed_and_a_shared_one_is_left(
    tmp_path: Path,
) -> None:
    ours, shared = tmp_path / "ours", tmp_path / "shared"
    for folder, before in ((ours, 0o777), (shared, 0o1777)):
        folder.mkdir()
        folder.chmod(before)
        make_private_folder(folder)

    assert (mode(ours), mode(shared)) == (0o755, 0o1777)


@pytest.mark.parametrize("name", ["x.sqlite", "x.sqlite.lock"])
@pytest.mark.parametrize("kind", ["symbolic", "hard"])
async def test_a_planted_name_keeps_its_target(tmp_path: Path, name: str, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o644)
    planted = tmp_path / name
    if kind == "symbolic":
        planted.symlink_to(victim)
    else:
        planted.hardlink_to(victim)

    with pytest.raises((ConfigError, StorageError), match=r"it is (a link|another file's)"):
        async with open_database(f"sqlite:///{tmp_path}/x.sqlite"):
            pass

    assert victim.read_bytes() == b"precious"
    assert mode(victim) == 0o644


READERS: list[Callable[[Path], object]] = [
    read_secret_file,
    load_or_create_identity,
    lambda path: load_owner_token(path.parent),
]


@pytest.mark.parametrize("read", READERS, ids=["password", "identity", "token"])
async def test_a_pipe_in_the_place_of_a_secret_holds_nobody(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "owner.token"
    os.mkfifo(path, 0o600)

    with pytest.raises((ConfigError, KeystoreError, StorageError), match="no plain file"):
        await anyio.to_thread.run_sync(read, path)


@pytest.mark.parametrize("suffix", ["part", "done", "obao", "whole"])
async def test_a_planted_part_keeps_its_target(tmp_path: Path, suffix: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    blob = BlobId(NATIVE.blake3(b"x" * 1_000_000), 1_000_000)
    link = tmp_path / f".target.{blob.digest.hex()[:16]}.{suffix}"
    link.symlink_to(victim)

    with pytest.raises(StorageError):
        async with open_part(tmp_path / "target", blob) as part:
            part.append_whole(b"others")
            part.discard()
            raise StorageError("it was not written through")

    assert victim.read_bytes() == b"precious"


async def test_a_pipe_in_the_place_of_a_lock_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.sqlite.lock")

    with pytest.raises(ConfigError, match="no plain file"):
        async with open_database(f"sqlite:///{tmp_path}/x.sqlite"):
            pass


NAMES = ["../../victim", "blobs/../victim", "/etc/victim", "blobs/ab/../../victim", "store.sqlite"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_in_the_database_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    victims = [tmp_path / "victim", tmp_path / "s5" / "victim"]
    async with open_store(tmp_path / "s5", NATIVE) as store:
        blob = await store.put(bytes(200_000), owner="a", reason="test")
        kept = await store.put(bytes(300_000), owner="a", reason="test")
        for victim in victims:
            victim.write_bytes(b"precious")

        def change(connection: Connection) -> None:
            doom(connection, [name])
            connection.exec_driver_sql(
                "UPDATE blobs SET file = ? WHERE size = 200000", (f"../{name}",)
            )

        await store.db.write(change, durable=True)
        with pytest.raises(StorageError, match="none of this store"):
            await store.get(blob.multihash, max_bytes=1 << 20)
        await store.unpin("a", [blob.multihash])
        await store.collect(grace_seconds=0)
    async with open_store(tmp_path / "s5", NATIVE) as store:  # which removes what is doomed
        assert await store.get(kept.multihash, max_bytes=1 << 20) == bytes(300_000)

    assert [victim.read_bytes() for victim in victims] == [b"precious"] * 2


async def test_a_linked_folder_of_blobs_loses_nothing(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_bytes(b"precious")
    async with open_store(tmp_path / "s5", NATIVE) as store:
        (tmp_path / "s5" / "blobs" / "ab").symlink_to(elsewhere)
        await store.db.write(lambda c: doom(c, ["blobs/ab/precious.txt"]), durable=True)

    async with open_store(tmp_path / "s5", NATIVE):
        pass

    assert (elsewhere / "precious.txt").read_bytes() == b"precious"


def test_secrets_that_others_can_read_are_refused_by_the_file_that_is_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s" * 40)
    file.chmod(0o640)
    (tmp_path / "owner.token").symlink_to(file)

    with pytest.raises(KeystoreError, match="other users"):
        read_secret_file(file)
    with pytest.raises(KeystoreError, match="other users"):
        load_or_create_identity(file)
    with pytest.raises(KeystoreError, match="others"):
        load_owner_token(tmp_path)


SWAPPER = """
import os, sys
from pathlib import Path
from fabstir.chain.keystore import read_secret_file
from fabstir.primitives.errors import KeystoreError

private, public, link = map(Path, sys.argv[1:])
stat = Path.stat

def swapping(path, **options):
    found = stat(path, **options)
    if path == link:  # between the look and the reading
        link.unlink()
        link.symlink_to(public)
    return found

Path.stat = swapping
try:
    print(read_secret_file(link))
except KeystoreError as error:
    print(error)
"""


def test_a_secret_is_opened_once(tmp_path: Path) -> None:
    private, public, link = (tmp_path / name for name in ("private", "public", "link"))
    private.write_text("private")
    private.chmod(0o600)
    public.write_text("planted")
    public.chmod(0o644)
    link.symlink_to(private)

    arguments = [str(private), str(public), str(link)]
    done = subprocess.run(
        [sys.executable, "-c", SWAPPER, *arguments], check=True, capture_output=True, text=True
    )

    assert done.stdout == "private\n"


async def test_an_import_obeys_the_registrys_limit(tmp_path: Path) -> None:
    async with open_store(tmp_path / "a", NATIVE) as store:
        registry = LocalRegistry(store, NATIVE)
        for number in range(5):
            await registry.set(sign_entry(bytes([number]) * 32, 1, b"mine", NATIVE))
        await export_archive(store, tmp_path / "all.s5car")

    async with open_store(tmp_path / "b", NATIVE) as store:
        imported = await import_archive(
            store,
            tmp_path / "all.s5car",
            LocalRegistry(store, NATIVE, max_entries=3),
            owner="a",
            crypto=NATIVE,
        )

    assert (imported.num_entries, imported.num_refused) == (3, 2)
    assert replace(imported, num_refused=0).num_outdated == 0
