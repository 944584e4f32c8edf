"""Mutations of a corpus: pure Python, the same for the same seed on every machine.

Nothing here measures coverage: the corpus has every message in every form, and most findings are
one wrong value deep in an otherwise good message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

CORPUS = Path(__file__).parent / "corpus"

MAX_INPUT_BYTES = 1 << 18
"""Long enough for every limit but the frame's own, which has a unit test."""

_PIECES: tuple[bytes, ...] = (
    b"null", b"true", b"false", b"0", b"-1", b"1.5", b"1e400", b"-0.0", b"9" * 80, b"9" * 400,
    b"9" * 5000, b"18446744073709551616", b"9007199254740993", b"NaN", b"Infinity", b'""', b"[]",
    b"{}", b'"\\ud800"', b'"\\u0000"', b'"0x"', b'"0x0"', b'"' + b"f" * 130 + b'"', b"\xff", b"\0",
    b"\xef\xbb\xbf", b"|", b'"id":5,', b'"sessionId":7,', b'"jobId":"8",', b'"type":"ping",',
    b'"prices":{"0xAB":"1"},', b'"extension":{},', b'"payload":{},', "é\u202e\U0001f642".encode(),
)  # fmt: skip


def read_corpus(target: str) -> list[bytes]:
    """The committed inputs of one target, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*.bin"))]


def mutate(corpus: Sequence[bytes], random: Random) -> bytes:
    """One new input: a few changes to a random member of the corpus."""
    data = random.choice(corpus)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        data = random.choice(_MUTATIONS)(data, random)
    if random.random() < 0.1:
        data = _splice(data, random.choice(corpus), random)
    return data[:MAX_INPUT_BYTES]


def _cut(data: bytes, random: Random, most: int = 40) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.randint(0, most))


def _flip(data: bytes, random: Random) -> bytes:
    if not data:
        return data
    altered = bytearray(data)
    altered[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(altered)


def _insert(data: bytes, random: Random, pieces: Sequence[bytes] = _PIECES) -> bytes:
    start, end = _cut(data, random)
    return data[:start] + random.choice(pieces) + data[end if random.random() < 0.5 else start :]


def _noise(data: bytes, random: Random) -> bytes:
    return _insert(data, random, (random.randbytes(random.randint(1, 8)),))


def _delete(data: bytes, random: Random) -> bytes:
    start, end = _cut(data, random)
    return data[:start] + data[end:]


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _repeat(data: bytes, random: Random) -> bytes:
    start, end = _cut(data, random, 12)
    return data[:end] + data[start:end] * random.choice((1, 2, 100, 20_000)) + data[end:]


def _value(data: bytes, random: Random) -> bytes:
    """Put another value behind one of the colons."""
    places = [index for index, byte in enumerate(data) if byte == ord(":")]
    if not places:
        return data
    start = random.choice(places) + 1
    end = start
    while end < len(data) and data[end] not in b",}]":
        end += 1
    return data[:start] + random.choice(_PIECES) + data[end:]


def _swap(data: bytes, random: Random, *, old: bytes, new: bytes) -> bytes:
    return data.replace(old, new, random.choice((1, -1)))


def _splice(data: bytes, other: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


_MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _insert, _noise, _delete, _truncate, _repeat, _value, _value, _value,
    partial(_swap, old=b"_id", new=b"Id"),
    partial(_swap, old=b'"', new=b""),
    partial(_swap, old=b"0x", new=b"0X"),
    partial(_swap, old=b"{", new=b"["),
)  # fmt: skip
