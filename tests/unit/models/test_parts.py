"""A model in several files is refused: a digest covers all that is loaded, or nothing is."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest

from fabstir.models.files import check_header, ensure_verified, remember_verified
from fabstir.primitives.errors import ModelNotGguf
from fabstir.primitives.ids import hash32

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def gguf(count: int) -> bytes:
    """A header whose metadata say how many files there are, behind some other text."""
    text = struct.pack("<Q4sIQ5s", 4, b"name", 8, 5, b"model")
    number = struct.pack("<Q8sIH", 8, b"split.no", 2, 0)
    split = struct.pack("<Q11sIH", 11, b"split.count", 2, count)
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 3) + text + number + split


async def test_one_of_several_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00003.gguf"
    path.write_bytes(gguf(3))

    with pytest.raises(ModelNotGguf, match=r"one of 3 parts.*--merge"):
        await check_header(path)


async def test_what_was_verified_before_is_refused_as_well(tmp_path: Path) -> None:
    path = tmp_path / "renamed.gguf"
    path.write_bytes(gguf(2))
    digest = hash32(hashlib.sha256(path.read_bytes()).digest())
    await remember_verified(path, digest)

    with pytest.raises(ModelNotGguf, match="one of 2 parts"):
        await ensure_verified(path, digest)


@pytest.mark.parametrize("count", [0, 1])
async def test_a_whole_model_is_none_of_several(tmp_path: Path, count: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(count))

    await check_header(path)
