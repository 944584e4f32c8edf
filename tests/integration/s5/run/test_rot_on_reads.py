"""Rot that a read finds: it is healed in the middle, or named for what it is."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.e2e.s5.process import options

from fabstir.cli.app import run
from fabstir.crypto import NATIVE
from fabstir.primitives.errors import CorruptBlob
from fabstir.s5.store import BlobStore, LocalBlobs, open_store
from fabstir.s5.transfer.node import S5Node
from fabstir.telemetry import configure_logging

pytestmark = [pytest.mark.integration]

LARGE = bytes(range(256)) * 12_288
"""3 MiB: three pieces of a read."""


def rot(folder: Path, position: int) -> Path:
    """Turn a bit of the only file of more than 64 KiB; returns that file."""
    (file,) = (path for path in (folder / "blobs").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    return file


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[BlobStore]:
    async with open_store(tmp_path / "ours", NATIVE) as opened:
        yield opened


@pytest.fixture
async def neighbour(tmp_path: Path) -> AsyncGenerator[LocalBlobs]:
    async with open_store(tmp_path / "theirs", NATIVE) as opened:
        yield LocalBlobs(opened, "them")


@pytest.mark.anyio
@pytest.mark.parametrize("position", [0, 2_500_000])
async def test_a_read_goes_on_over_rot_that_a_neighbour_mends(
    store: BlobStore, neighbour: LocalBlobs, position: int
) -> None:
    node = S5Node(store, [neighbour])
    blob = await node.blobs("me").put(LARGE, reason="test")
    await neighbour.put(LARGE, reason="test")
    rot(store.folder, position)

    whole = b"".join([piece async for piece in node.read(blob, 7)])

    assert whole == LARGE[7:]
    assert await store.get(blob.multihash, max_bytes=len(LARGE)) == LARGE
    assert [pin.owner async for pin in store.pins()] == ["me"]


@pytest.mark.anyio
async def test_rot_that_nobody_mends_is_no_missing_blob(
    store: BlobStore, neighbour: LocalBlobs
) -> None:
    node = S5Node(store, [neighbour])
    blob = await node.blobs("me").put(LARGE, reason="test")
    file = rot(store.folder, 2_500_000)

    for _ in range(2):
        got = bytearray()
        with pytest.raises(CorruptBlob) as damaged:
            async for piece in node.read(blob):
                got += piece
        assert damaged.value.place == str(file)
        assert LARGE.startswith(bytes(got))
    with pytest.raises(CorruptBlob):
        await node.bring(blob)


def test_scrub_shows_people_what_has_rotted_and_what_was_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run([*options(tmp_path, {}), "s5", *args])
        said = capsys.readouterr()
        return status, said.out, said.err

    (tmp_path / "big.bin").write_bytes(LARGE)
    command("put", str(tmp_path / "big.bin"), "big.bin")
    file = rot(next(tmp_path.rglob("blobs")).parent, 5000)

    damaged = command("scrub")
    fetched = command("get", "big.bin", "-o", str(tmp_path / "out"))
    exported = command("export", str(tmp_path / "all.s5car"))
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    restored = command("scrub")
    again = command("get", "big.bin", "-o", str(tmp_path / "out"))

    configure_logging("warning")
    assert (damaged[0], fetched[0], exported[0], restored[0], again[0]) == (1, 1, 1, 0, 0)
    assert "nobody has it" in damaged[1]
    assert "1 damaged, 0 of them replaced" in damaged[1]
    assert "are damaged: they are never served" in damaged[2]
    assert "are not what was stored" in fetched[2]
    assert "1 blobs are damaged and not in it" in exported[2]
    assert "restored" in restored[1]
    assert (tmp_path / "out").read_bytes() == LARGE
