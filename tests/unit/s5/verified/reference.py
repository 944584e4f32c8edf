"""BLAKE3 and Bao's outboard as their documents define them: recursive, one chunk at a time, slow.

Written from the BLAKE3 paper and from Bao's specification, apart from the code under test; the
tests hold it to both first.
"""

from __future__ import annotations

IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MASK = 0xFFFFFFFF


def _rotate(x: int, bits: int) -> int:
    return (x >> bits | x << (32 - bits)) & MASK


def compress(value: bytes, block: bytes, counter: int, length: int, flags: int) -> bytes:
    h = [int.from_bytes(value[i : i + 4], "little") for i in range(0, 32, 4)]
    m = [int.from_bytes(block[i : i + 4], "little") for i in range(0, 64, 4)]
    v = [*h, *IV[:4], counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for number, (a, b, c, d) in enumerate(QUARTERS):
            for word, right, left in ((m[2 * number], 16, 12), (m[2 * number + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & MASK
                v[d] = _rotate(v[d] ^ v[a], right)
                v[c] = (v[c] + v[d]) & MASK
                v[b] = _rotate(v[b] ^ v[c], left)
        m = [m[i] for i in PERMUTATION]
    return b"".join((v[i] ^ v[i + 8]).to_bytes(4, "little") for i in range(8))


START = b"".join(word.to_bytes(4, "little") for word in IV)


def _chunk(data: bytes, counter: int, root: int) -> bytes:
    value = START
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    for number, block in enumerate(blocks):
        flags = CHUNK_START * (number == 0)
        if number == len(blocks) - 1:
            flags |= CHUNK_END | root
        value = compress(value, block.ljust(64, b"\0"), counter, len(block), flags)
    return value


def tree(data: bytes, group_chunks: int, chunk: int = 0, root: int = ROOT) -> tuple[bytes, bytes]:
    """The value of a subtree, and its parents above groups in pre-order."""
    num_chunks = max(1, -(-len(data) // 1024))
    if num_chunks == 1:
        return _chunk(data, chunk, root), b""
    left_chunks = 1 << ((num_chunks - 1).bit_length() - 1)
    left, below_left = tree(data[: left_chunks * 1024], group_chunks, chunk, 0)
    rest, below_right = tree(data[left_chunks * 1024 :], group_chunks, chunk + left_chunks, 0)
    value = compress(START, left + rest, 0, 64, PARENT | root)
    if num_chunks <= group_chunks:
        return value, b""
    return value, left + rest + below_left + below_right


def outboard(data: bytes, group_chunks: int) -> bytes:
    return len(data).to_bytes(8, "little") + tree(data, group_chunks)[1]
