"""Verifying parts of a blob against its BLAKE3 hash alone: Bao, in groups of 256 KiB.

BLAKE3 is a binary tree over chunks of 1 KiB. Whoever has the tree's upper part can check any part
of the blob without the rest, and the upper part itself is checked against the blob's hash, so both
may come from a stranger. Of S5 that upper part, the *outboard*, is everything above groups of 256
chunks ("obao", chunk log 8), as its Dart and Rust nodes keep it beside a blob:

    length of the blob (u64, little-endian) | parents in pre-order, 64 bytes each: left | right

A blob of n groups has n - 1 parents: 256 bytes for each MiB, 5 MiB for 20 GB.
Spec: docs/spec.md of oconnor663/bao, "Outboard Encoding Format".
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import LocalProtocolError, RemoteProtocolError
from fabstir.s5.formats.limits import CHUNK_BYTES as GROUP_BYTES
from fabstir.s5.verified._compression import CHUNK_BYTES, Words, chunk_values, parent_values

__all__ = [
    "GROUP_BYTES",
    "MAX_TREE_BYTES",
    "GroupTree",
    "TreeBuilder",
    "build_tree",
    "group_extent",
    "num_groups",
    "outboard_size",
]

MAX_TREE_BYTES: Final = 64 << 20
"""Longest outboard that is read, so that a stranger's identifier, which states the size, cannot
claim this machine's memory. It is that of a blob of 256 GiB."""

_CHUNKS_PER_GROUP: Final = GROUP_BYTES // CHUNK_BYTES
_HEADER_BYTES: Final = 8
_PARENT_BYTES: Final = 64
_BATCH_BYTES: Final = 16 * GROUP_BYTES
"""What is hashed in one call: fewer groups leave lanes idle (`_compression` has the figures)."""

_Indices = NDArray[np.int64]


def num_groups(size: int) -> int:
    """How many groups a blob of so many bytes has: one at least, for the empty blob too."""
    return max(1, -(-size // GROUP_BYTES))


def group_extent(size: int, first: int, count: int = 1) -> tuple[int, int]:
    """Where `count` groups from `first` on start and end in a blob of `size` bytes."""
    return first * GROUP_BYTES, min(size, (first + count) * GROUP_BYTES)


def outboard_size(size: int) -> int:
    """Bytes of the outboard of a blob of so many bytes."""
    return _HEADER_BYTES + (num_groups(size) - 1) * _PARENT_BYTES


@dataclass(frozen=True, slots=True)
class _Level:
    """The parents of one depth, as arrays.

    Attributes:
        position: each parent's place in pre-order.
        first, count: the groups below it.
        left: how many of them are below its left child: the largest power of two below `count`.
    """

    position: _Indices
    first: _Indices
    count: _Indices
    left: _Indices

    @classmethod
    def of(cls, position: _Indices, first: _Indices, count: _Indices) -> Self:
        # frexp gives e with count - 1 = m * 2^e and 1/2 <= m < 1: exact below 2^53.
        exponents = np.frexp((count - 1).astype(np.float64))[1].astype(np.int64)
        return cls(position, first, count, np.int64(1) << (exponents - 1))

    def children(self) -> Iterator[tuple[slice, _Indices, _Indices, _Indices]]:
        """Both sides: which words of the parent they are, and the children's own arrays."""
        yield slice(0, 8), self.position + 1, self.first, self.left
        # The left child's subtree of n groups has n - 1 parents.
        right = self.position + self.left
        yield slice(8, 16), right, self.first + self.left, self.count - self.left


def _levels(groups: int) -> list[_Level]:
    """All parents of a tree, from its root down."""
    levels: list[_Level] = []
    zero, count = np.zeros(1, dtype=np.int64), np.array([groups], dtype=np.int64)
    position, first = zero, zero
    while len(count):
        levels.append(_Level.of(position, first, count))
        below = [side[1:] for side in levels[-1].children()]
        position, first, count = (np.concatenate(arrays) for arrays in zip(*below, strict=True))
        is_parent = count > 1
        position, first, count = position[is_parent], first[is_parent], count[is_parent]
    return levels


def _group_values(data: memoryview, first_group: int) -> Words:
    """Chaining values of groups, shape (8, groups); only a blob's last group may be short."""
    values = chunk_values(data, first_group * _CHUNKS_PER_GROUP)
    whole = values.shape[1] // _CHUNKS_PER_GROUP * _CHUNKS_PER_GROUP
    merged = [_merge(values[:, :whole], whole // _CHUNKS_PER_GROUP)] if whole else []
    if whole < values.shape[1]:
        merged.append(_merge(values[:, whole:], 1))
    return np.concatenate(merged, axis=1)


def _merge(values: Words, roots: int) -> Words:
    """Join neighbours until `roots` are left. A last one without a neighbour moves up as it is:
    that is the same tree as BLAKE3's rule of the largest power of two on the left."""
    while values.shape[1] > roots:
        even = values.shape[1] // 2 * 2
        joined = parent_values(np.concatenate([values[:, :even:2], values[:, 1:even:2]]))
        values = np.concatenate([joined, values[:, even:]], axis=1)
    return values


@dataclass(frozen=True, slots=True, eq=False)
class GroupTree:
    """What each group of a blob must hash to; made of checked or of own bytes only.

    Attributes:
        values: the groups' chaining values, shape (8, groups); of a blob of one group its hash.
    """

    blob: BlobId
    values: Words

    @classmethod
    def decode(cls, blob: BlobId, outboard: bytes) -> Self:
        """Read an outboard and check all of it against the blob's hash.

        Takes 25 ms for a blob of 20 GB: off the event loop, please.

        Raises:
            RemoteProtocolError: it is not the outboard of this blob, or too long. Never any other
                error, whatever the bytes.
            LocalProtocolError: the blob's hash is not BLAKE3, so no part of it can be verified.
        """
        _require_blake3(blob)
        expected = outboard_size(blob.size)
        if expected > MAX_TREE_BYTES:
            raise RemoteProtocolError(
                f"a blob of {blob.size} bytes has an outboard of {expected}, and {MAX_TREE_BYTES} "
                "are read at most"
            )
        header = blob.size.to_bytes(_HEADER_BYTES, "little")
        if len(outboard) != expected or outboard[:_HEADER_BYTES] != header:
            raise RemoteProtocolError(
                f"the outboard of a blob of {blob.size} bytes has {expected} and begins with its "
                f"length; these are {len(outboard)} bytes"
            )
        digest = _words(blob.digest)
        if num_groups(blob.size) == 1:
            return cls(blob, digest)
        return cls(blob, _checked_values(digest, _words(outboard[_HEADER_BYTES:], 16)))

    def encode(self) -> bytes:
        """The outboard."""
        header = self.blob.size.to_bytes(_HEADER_BYTES, "little")
        if self.values.shape[1] == 1:
            return header
        return header + _bytes(_join(self.values)[1])

    def wrong_groups(self, first: int, data: bytes | memoryview) -> list[int]:
        """Which groups of a run are not the blob's.

        Args:
            data: whole groups from number `first` on, the last one as long as it is in the blob.

        Raises:
            LocalProtocolError: `data` does not end where a group does.
        """
        start, view = first * GROUP_BYTES, memoryview(data)
        end = start + len(view)
        if end > self.blob.size or (end % GROUP_BYTES and end != self.blob.size):
            raise LocalProtocolError("groups are verified whole")
        if self.values.shape[1] == 1:
            return [] if NATIVE.blake3(bytes(view)) == self.blob.digest else [0]
        wrong: list[int] = []
        for offset in range(0, len(view), _BATCH_BYTES):
            group = first + offset // GROUP_BYTES
            actual = _group_values(view[offset : offset + _BATCH_BYTES], group)
            wanted = self.values[:, group : group + actual.shape[1]]
            differs = np.any(actual != wanted, axis=0)
            wrong += [group + int(index) for index in np.flatnonzero(differs)]
        return wrong


def _require_blake3(blob: BlobId) -> None:
    if blob.type is not HashType.BLAKE3:
        raise LocalProtocolError("parts of a blob can be verified against BLAKE3 only")


def _words(data: bytes, width: int = 8) -> Words:
    """Hashes, one after the other, as columns of words."""
    rows = np.frombuffer(data, dtype="<u4").reshape(-1, width)
    return np.ascontiguousarray(rows.T, dtype=np.uint32)


def _bytes(values: Words) -> bytes:
    return values.T.astype("<u4").tobytes()


def _checked_values(digest: Words, parents: Words) -> Words:
    """The groups' values out of parents in pre-order, each checked against the one above it."""
    actual = parent_values(parents)
    actual[:, :1] = parent_values(parents[:, :1], is_root=True)
    expected = np.empty_like(actual)
    expected[:, :1] = digest
    values = np.empty((8, parents.shape[1] + 1), dtype=np.uint32)
    for level in _levels(parents.shape[1] + 1):
        for words, position, first, count in level.children():
            stated = parents[words, level.position]
            is_group = count == 1
            values[:, first[is_group]] = stated[:, is_group]
            expected[:, position[~is_group]] = stated[:, ~is_group]
    if not np.array_equal(actual, expected):
        raise RemoteProtocolError("the outboard does not belong to the blob's hash")
    return values


def _join(values: Words) -> tuple[bytes, Words]:
    """Build the tree above the groups: the root's hash, and the parents in pre-order."""
    groups = values.shape[1]
    parents = np.empty((16, groups - 1), dtype=np.uint32)
    own = np.empty((8, groups - 1), dtype=np.uint32)
    for level in reversed(_levels(groups)):
        for words, position, first, count in level.children():
            is_group = count == 1
            below = np.empty((8, len(count)), dtype=np.uint32)
            below[:, is_group] = values[:, first[is_group]]
            below[:, ~is_group] = own[:, position[~is_group]]
            parents[words, level.position] = below
        own[:, level.position] = parent_values(parents[:, level.position])
    return _bytes(parent_values(parents[:, :1], is_root=True)), parents


class TreeBuilder:
    """Makes a blob's tree while its bytes pass by, in pieces of any size.

    Holds 4 MiB and 32 bytes for each group. Not for the event loop: some 320 MiB/s on one core.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._values: list[Words] = []
        self._num_groups = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next piece."""
        self._pending += data
        # One byte more than a batch: the last group is hashed by `finish`, alone or not.
        while len(self._pending) > _BATCH_BYTES:
            self._hash(_BATCH_BYTES)

    def finish(self) -> GroupTree:
        """The tree; its identifier is that of all bytes so far."""
        size = self._num_groups * GROUP_BYTES + len(self._pending)
        if size <= GROUP_BYTES:
            digest = NATIVE.blake3(bytes(self._pending))
            return GroupTree(BlobId(digest, size), _words(digest))
        self._hash(len(self._pending))
        values = np.concatenate(self._values, axis=1)
        return GroupTree(BlobId(_join(values)[0], size), values)

    def _hash(self, count: int) -> None:
        with memoryview(self._pending) as view, view[:count] as batch:
            values = _group_values(batch, self._num_groups)
        del self._pending[:count]
        self._values.append(values)
        self._num_groups += values.shape[1] if count % GROUP_BYTES == 0 else 0


async def build_tree(pieces: AsyncIterable[bytes]) -> GroupTree:
    """The tree of a stream, hashed in a worker thread."""
    builder = TreeBuilder()
    gathered: list[bytes] = []
    num_bytes = 0
    async for piece in pieces:
        gathered.append(piece)
        num_bytes += len(piece)
        if num_bytes >= _BATCH_BYTES:
            await to_thread.run_sync(builder.update, b"".join(gathered))
            gathered, num_bytes = [], 0
    await to_thread.run_sync(builder.update, b"".join(gathered))
    return await to_thread.run_sync(builder.finish)
