"""A part file knows, block by block, what came; damage costs its block and what is behind."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.models import _part
from fabstir.models._part import ModelPart
from fabstir.primitives.ids import hash32

BLOCK = 1 << 20
DATA = Random(3).randbytes(3 * BLOCK + 1000)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_part, "BLOCK_BYTES", BLOCK)


def written(path: Path, data: bytes, piece: int = 100_000) -> ModelPart:
    part = ModelPart.resumed(path, "digest")
    part.begin("address", '"etag"')
    with part.open() as file:
        for start in range(0, len(data), piece):
            part.write(file, data[start : start + piece])
    return part


def test_what_came_is_gone_on_with(tmp_path: Path) -> None:
    written(path := tmp_path / "part", DATA[:-5])

    part = ModelPart.resumed(path, "digest")
    with part.open() as file:
        part.write(file, DATA[-5:])

    assert (part.url, part.validator, part.size) == ("address", '"etag"', len(DATA))
    assert part.sha256 == hash32(hashlib.sha256(DATA).digest())
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(("at", "kept"), [(10, 0), (BLOCK + 10, BLOCK), (3 * BLOCK - 1, 2 * BLOCK)])
def test_a_damaged_block_is_cut_off(tmp_path: Path, at: int, kept: int) -> None:
    written(path := tmp_path / "part", DATA)
    damaged = bytearray(DATA)
    damaged[at] ^= 1
    path.write_bytes(damaged)

    part = ModelPart.resumed(path, "digest")

    assert part.size == kept == path.stat().st_size
    assert part.sha256 == hash32(hashlib.sha256(DATA[:kept]).digest())


def test_a_part_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    written(path := tmp_path / "part", DATA)

    assert ModelPart.resumed(path, "another").size == 0


@pytest.mark.parametrize("journal", [b"", b"{", b"[]", b'{"content": "digest", "blocks": 7}'])
def test_a_journal_may_be_damaged(tmp_path: Path, journal: bytes) -> None:
    written(path := tmp_path / "part", DATA)
    (tmp_path / "part.json").write_bytes(journal)

    assert ModelPart.resumed(path, "digest").size in {0, len(DATA)}


@given(cut=st.integers(0, len(DATA)), piece=st.integers(50_000, 2_000_000))
def test_any_cut_and_any_pieces_come_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, cut: int, piece: int
) -> None:
    path = tmp_path_factory.mktemp("parts") / "part"
    written(path, DATA[:cut], piece)

    part = ModelPart.resumed(path, "digest")
    with part.open() as file:
        part.write(file, DATA[cut:])

    assert part.sha256 == hash32(hashlib.sha256(DATA).digest())
