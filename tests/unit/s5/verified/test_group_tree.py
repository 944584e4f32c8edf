"""Trees of blobs, against BLAKE3's own package, against its paper, and against liars."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.s5.verified.reference import PARENT, ROOT, START, compress, outboard, tree

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import LocalProtocolError, RemoteProtocolError
from fabstir.s5.verified import _compression
from fabstir.s5.verified.tree import (
    GROUP_BYTES,
    GroupTree,
    TreeBuilder,
    _join,  # pyright: ignore[reportPrivateUsage] -- with groups of one chunk
    build_tree,
    group_extent,
    num_groups,
    outboard_size,
)

MIB = 1 << 20
NOISE = random.Random(20).randbytes(5 * MIB + 4096)
"""Bytes of which every blob here is a prefix."""

CHUNK_EDGES = [0, 1, 63, 64, 65, 1023, 1024, 1025, 2047, 2048, 2049, 3072, 5 * 1024 + 17]
GROUP_EDGES = [
    groups * GROUP_BYTES + more
    for groups in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20)
    for more in (-1025, -1024, -1, 0, 1, 64, 1023, 1024, 1025)
]


def built(data: bytes, piece: int = 100_003) -> GroupTree:
    builder = TreeBuilder()
    for start in range(0, len(data), piece):
        builder.update(data[start : start + piece])
    return builder.finish()


FIVE = built(NOISE[: 4 * GROUP_BYTES + 1500])
"""Of 4 groups and a short one."""


def test_the_reference_is_the_papers_and_baos() -> None:
    assert tree(NOISE[:7000], 1)[0] == NATIVE.blake3(NOISE[:7000])
    # The example of Bao's specification, "Combined Encoding Format": 2,049 zero bytes.
    text = outboard(bytes(2049), 1).hex()
    starts = [text[:16], *(text[i : i + 6] for i in range(16, len(text), 64))]
    assert starts == ["0108000000000000", "a04fc7", "c37466", "91715a", "f0eef3"]


@pytest.mark.parametrize("size", CHUNK_EDGES + GROUP_EDGES)
def test_the_root_is_the_blobs_hash_at_every_edge(size: int) -> None:
    data = NOISE[:size]

    made = built(data)

    assert made.blob == BlobId(NATIVE.blake3(data), size)
    assert made.values.shape == (8, num_groups(size))
    assert len(made.encode()) == outboard_size(size)
    again = GroupTree.decode(made.blob, made.encode())
    assert np.array_equal(again.values, made.values)


@pytest.mark.parametrize("num_chunks", [2, 3, 4, 5, 7, 8, 9, 31, 33])
def test_parents_are_in_the_order_of_bao(num_chunks: int) -> None:
    # With one chunk a group: the paper's way takes a second for a MiB.
    data = NOISE[: num_chunks * 1024 - 7]
    values = _compression.chunk_values(memoryview(data), 0)

    root, parents = _join(values)

    assert (root, parents.T.astype("<u4").tobytes()) == tree(data, 1)


def test_an_outboard_of_real_groups_is_baos() -> None:
    data = NOISE[: 2 * GROUP_BYTES + 5]

    made = built(data).encode()

    header, root, below = made[:8], made[8:72], made[72:]
    assert header == len(data).to_bytes(8, "little")
    assert compress(START, root, 0, 64, PARENT | ROOT) == NATIVE.blake3(data)
    assert compress(START, below, 0, 64, PARENT) == root[:32]
    assert root[32:] == tree(data[2 * GROUP_BYTES :], 256, 512, 0)[0]


@given(
    size=st.integers(0, 300_000) | st.integers(0, len(NOISE)),
    piece=st.integers(1, MIB).map(lambda n: max(n, 20_000)),
)
def test_pieces_of_any_size_give_the_same_tree(size: int, piece: int) -> None:
    data = NOISE[: min(size, 700_000)]

    assert built(data, piece).blob == BlobId(NATIVE.blake3(data), len(data))


@pytest.mark.anyio
async def test_a_stream_gives_the_same_tree() -> None:
    data = NOISE[: 4 * MIB + 1]

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(data), 333_333):
            yield data[start : start + 333_333]

    assert (await build_tree(pieces())).blob.digest == NATIVE.blake3(data)


def test_counters_beyond_32_bits_count_on() -> None:
    chunk = (1 << 32) - 1

    values = _compression.chunk_values(memoryview(NOISE[:2048]), chunk)

    expected = [tree(NOISE[i * 1024 : (i + 1) * 1024], 1, chunk + i, 0)[0] for i in (0, 1)]
    assert values.T.astype("<u4").tobytes() == b"".join(expected)


def test_every_run_of_a_blob_is_right() -> None:
    data = NOISE[: FIVE.blob.size]

    for first in range(5):
        for count in range(1, 6 - first):
            start, end = group_extent(FIVE.blob.size, first, count)
            assert FIVE.wrong_groups(first, data[start:end]) == []


@settings(max_examples=20)
@given(flips=st.sets(st.integers(0, 4 * GROUP_BYTES + 1499), min_size=1, max_size=3))
def test_a_flipped_bit_is_found_in_its_group(flips: set[int]) -> None:
    data = bytearray(NOISE[: FIVE.blob.size])
    for flip in flips:
        data[flip] ^= 0x40

    assert FIVE.wrong_groups(0, memoryview(data)) == sorted({flip // GROUP_BYTES for flip in flips})


def test_the_right_bytes_in_the_wrong_place_are_wrong() -> None:
    assert FIVE.wrong_groups(1, NOISE[:GROUP_BYTES]) == [1]


def test_half_a_group_is_never_verified() -> None:
    with pytest.raises(LocalProtocolError, match="whole"):
        FIVE.wrong_groups(0, NOISE[:1000])
    with pytest.raises(LocalProtocolError, match="whole"):
        FIVE.wrong_groups(4, NOISE[:1501])


@given(position=st.integers(0, outboard_size(4 * GROUP_BYTES + 1500) - 1), bit=st.integers(0, 7))
def test_no_bit_of_an_outboard_can_be_changed(position: int, bit: int) -> None:
    outboard = bytearray(FIVE.encode())
    outboard[position] ^= 1 << bit

    with pytest.raises(RemoteProtocolError):
        GroupTree.decode(FIVE.blob, bytes(outboard))


@given(st.binary(max_size=400))
def test_any_bytes_are_no_outboard(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        GroupTree.decode(FIVE.blob, data)


def test_an_outboard_of_another_length_is_refused() -> None:
    for wrong in (FIVE.encode() + b"\0", FIVE.encode()[:-1], b""):
        with pytest.raises(RemoteProtocolError, match="begins with its length"):
            GroupTree.decode(FIVE.blob, wrong)


def test_a_false_size_shows_at_the_last_group() -> None:
    # Only the header says it, and the tree has the same shape: its last group then is too short.
    longer = BlobId(FIVE.blob.digest, FIVE.blob.size + 1)
    outboard = longer.size.to_bytes(8, "little") + FIVE.encode()[8:]

    forged = GroupTree.decode(longer, outboard)

    start, _ = group_extent(longer.size, 4)
    assert forged.wrong_groups(4, NOISE[start : longer.size]) == [4]


def test_a_claimed_size_costs_no_memory() -> None:
    huge = BlobId(bytes(32), (1 << 64) - 1)

    with pytest.raises(RemoteProtocolError, match="at most"):
        GroupTree.decode(huge, b"")


def test_a_blob_of_another_hash_type_has_no_tree() -> None:
    with pytest.raises(LocalProtocolError, match="BLAKE3"):
        GroupTree.decode(BlobId(bytes(32), 5, HashType.SHA256), b"")


def test_a_blob_of_one_group_is_checked_by_its_hash() -> None:
    data = NOISE[:1000]
    made = GroupTree.decode(BlobId(NATIVE.blake3(data), 1000), (1000).to_bytes(8, "little"))

    assert made.wrong_groups(0, data) == []
    assert made.wrong_groups(0, data[::-1]) == [0]
