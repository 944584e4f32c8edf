"""Digests and headers of files on disk."""

import hashlib
from pathlib import Path

import pytest

from fabstir.models import ensure_verified, sha256_of, verify_model
from fabstir.primitives.errors import ModelHashMismatch, ModelMissing, ModelNotGguf
from fabstir.primitives.ids import Hash32, hash32

pytestmark = pytest.mark.anyio

GGUF = b"GGUF" + (3).to_bytes(4, "little") + bytes(5_000_000)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF)
    return path


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def sha256(data: bytes) -> Hash32:
    return hash32(hashlib.sha256(data).digest())


async def test_the_digest_is_that_of_the_bytes(model: Path) -> None:
    seen: list[tuple[int, int]] = []

    digest = await sha256_of(model, lambda done, total: seen.append((done, total)))

    assert digest == sha256(GGUF)
    assert seen == sorted(seen)
    assert seen[-1] == (len(GGUF), len(GGUF))


async def test_a_truncated_file_is_caught(model: Path) -> None:
    overwrite(model, GGUF[:-1])

    with pytest.raises(ModelHashMismatch, match="delete it and fetch the model again"):
        await verify_model(model, sha256(GGUF))


@pytest.mark.parametrize("path", ["none.gguf", "."])
async def test_a_file_that_cannot_be_read_is_missing(model: Path, path: str) -> None:
    with pytest.raises(ModelMissing, match=r"correct model\.path"):
        await verify_model(model.parent / path, sha256(GGUF))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no GGUF file"),
        (b"GGUF\x03\0\0", "no GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no GGUF file"),
        (b"GGUF\x01\0\0\0", "version 1 "),
        (b"GGUF\0\0\0\x03", "version 50331648 "),
    ],
)
async def test_the_right_bytes_of_the_wrong_format_are_refused(
    model: Path, data: bytes, reason: str
) -> None:
    overwrite(model, data)

    with pytest.raises(ModelNotGguf, match=reason):
        await verify_model(model, sha256(data))


async def test_a_file_that_changed_since_it_was_verified_is_hashed_again(model: Path) -> None:
    await ensure_verified(model, sha256(GGUF))
    await ensure_verified(model, sha256(GGUF))
    overwrite(model, GGUF[:-1] + b"?")

    with pytest.raises(ModelHashMismatch):
        await ensure_verified(model, sha256(GGUF))


async def test_a_file_verified_for_one_digest_is_not_verified_for_another(model: Path) -> None:
    await ensure_verified(model, sha256(GGUF))

    with pytest.raises(ModelHashMismatch):
        await ensure_verified(model, sha256(b"another"))


async def test_what_is_remembered_may_be_damaged(model: Path) -> None:
    model.with_name(".m.gguf.verified").write_bytes(b"\xff{")

    await ensure_verified(model, sha256(GGUF))

    assert b"inode" in model.with_name(".m.gguf.verified").read_bytes()
