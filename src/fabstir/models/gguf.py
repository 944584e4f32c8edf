"""The header of a GGUF file, read without believing it.

A model's file comes from a stranger and goes to native code, which has had memory errors in this
very parser. So it is read here first, in Python: no length, count or offset is used before it is
checked against the file's size and a limit of ours, and nothing is allocated by what a header
merely claims. What llama.cpp would refuse is refused here too, with its cause.

Source: docs/gguf.md of ggml, and llama.cpp's gguf.cpp, whose limits these are where it has any.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

from fabstir.models.gguf_types import TENSOR_TYPES, TensorType
from fabstir.primitives.errors import GgufRefused, ModelNotGguf

MAX_HEADER_BYTES: Final = 64 << 20
"""Everything before the weights. The largest vocabularies make some 20 MB of it."""

MAX_PAIRS: Final = 1 << 16
"""Key-value pairs. Models have 20 to 60; each costs us some 200 bytes."""

MAX_TENSORS: Final = 1 << 17
"""The largest models have some 2,000, 60,000 where experts are apart; 400 bytes each."""

MAX_KEY_BYTES: Final = (1 << 16) - 1
"""The specification's own limit."""

MAX_TENSOR_NAME_BYTES: Final = 63
"""llama.cpp's (GGML_MAX_NAME, with its zero)."""

MAX_DIMENSIONS: Final = 4
"""llama.cpp's (GGML_MAX_DIMS)."""

MAX_ALIGNMENT: Final = 1 << 20
"""Files have 32; a gap before the weights may be no way to hide bytes."""

DEFAULT_ALIGNMENT: Final = 32

_VERSIONS: Final = (2, 3)
"""What llama.cpp loads; version 1 was withdrawn in 2023."""

_ALIGNMENT: Final = "general.alignment"
_SPLIT_COUNT: Final = "split.count"
_MAGIC: Final = b"GGUF"
_START: Final = struct.Struct("<4sI")
_BLOCK_BYTES: Final = 1 << 20
_MAX_ELEMENTS: Final = (1 << 63) - 1
_SHOWN_CHARS: Final = 60


class ValueKind(IntEnum):
    """The types of GGUF's values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_NUMBERS: Final = {
    ValueKind.UINT8: struct.Struct("<B"),
    ValueKind.INT8: struct.Struct("<b"),
    ValueKind.UINT16: struct.Struct("<H"),
    ValueKind.INT16: struct.Struct("<h"),
    ValueKind.UINT32: struct.Struct("<I"),
    ValueKind.INT32: struct.Struct("<i"),
    ValueKind.FLOAT32: struct.Struct("<f"),
    ValueKind.BOOL: struct.Struct("<?"),
    ValueKind.UINT64: struct.Struct("<Q"),
    ValueKind.INT64: struct.Struct("<q"),
    ValueKind.FLOAT64: struct.Struct("<d"),
}
_U32: Final = _NUMBERS[ValueKind.UINT32]
_U64: Final = _NUMBERS[ValueKind.UINT64]

_MIN_PAIR_BYTES: Final = 8 + 4 + 1
_MIN_TENSOR_BYTES: Final = 8 + 4 + 4 + 8
"""Lengths, type and value; length, number of dimensions, type and offset: names may be empty."""


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array of the header, whose items are made when somebody wants them.

    Attributes:
        raw: the items as they are in the file, known to be whole.
    """

    kind: ValueKind
    length: int
    raw: memoryview = field(repr=False)

    def strings(self) -> Iterator[bytes]:
        """The items, where they are strings; else none."""
        if self.kind is not ValueKind.STRING:
            return
        at = 0
        for _ in range(self.length):
            (size,) = _U64.unpack_from(self.raw, at)
            at += _U64.size + size
            yield bytes(self.raw[at - size : at])

    def numbers(self) -> tuple[int | float, ...]:
        """The items, where they are numbers; else none."""
        layout = _NUMBERS.get(self.kind)
        if layout is None:
            return ()
        return tuple(value for (value,) in layout.iter_unpack(self.raw))


GgufValue = int | float | str | GgufArray


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One array of weights.

    Attributes:
        shape: numbers of elements, the fastest dimension first.
        offset: from the file's beginning, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: TensorType
    offset: int

    @property
    def num_elements(self) -> int:
        """The product of its shape."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """In the file."""
        return self.kind.bytes_of(self.num_elements)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says of itself, consistent with its own size.

    Attributes:
        alignment: of the tensors in the file, in bytes.
        file_bytes: the whole file.
    """

    version: int
    metadata: Mapping[str, GgufValue]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    file_bytes: int

    @property
    def weight_bytes(self) -> int:
        """All tensors together."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def num_parts(self) -> int:
        """How many files make the model."""
        count = self.metadata.get(_SPLIT_COUNT, 1)
        return max(1, count) if isinstance(count, int) else 1


def read_gguf(path: Path) -> GgufHeader:
    """Read a file's header, and nothing of its weights.

    Raises:
        ModelNotGguf: it is no GGUF file, or of a version that llama.cpp does not load.
        GgufRefused: its header contradicts itself, the file or our limits.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return parse_gguf(file, os.fstat(file.fileno()).st_size, str(path))


def parse_gguf(file: BinaryIO, file_bytes: int, name: str) -> GgufHeader:
    """As `read_gguf`, of a file that is open and stands at its beginning.

    Args:
        file_bytes: its size.
        name: what errors call it.
    """
    reader = _Reader(file, file_bytes, name)
    version = _read_version(reader)
    num_tensors = reader.count("tensors", MAX_TENSORS, _MIN_TENSOR_BYTES, pairs_too=True)
    num_pairs = reader.count("key-value pairs", MAX_PAIRS, _MIN_PAIR_BYTES)
    metadata = _read_pairs(reader, num_pairs)
    alignment = _alignment(reader, metadata)
    tensors = _read_tensors(reader, num_tensors, alignment)
    return GgufHeader(version, metadata, tensors, alignment, file_bytes)


def _read_version(reader: _Reader) -> int:
    name = reader.name
    start = reader.start()
    if len(start) < _START.size or not start.startswith(_MAGIC):
        raise ModelNotGguf(f"{name} is no GGUF file: take the model's GGUF version")
    version: int = _START.unpack(start)[1]
    if version not in _VERSIONS:
        raise ModelNotGguf(
            f"{name} is GGUF of version {version} (little-endian), and llama.cpp loads "
            f"{' and '.join(map(str, _VERSIONS))}: convert the model again"
        )
    return version


def _read_pairs(reader: _Reader, num_pairs: int) -> dict[str, GgufValue]:
    metadata: dict[str, GgufValue] = {}
    for _ in range(num_pairs):
        key = reader.text("a key", MAX_KEY_BYTES)
        if key in metadata:
            raise reader.refused(f"it has the key {_shown(key)} twice")
        metadata[key] = reader.value(key)
    return metadata


def _alignment(reader: _Reader, metadata: Mapping[str, GgufValue]) -> int:
    found = metadata.get(_ALIGNMENT, DEFAULT_ALIGNMENT)
    if isinstance(found, int) and 0 < found <= MAX_ALIGNMENT and found & (found - 1) == 0:
        return found
    raise reader.refused(
        f"its {_ALIGNMENT} is {_shown(str(found))}, and a power of two up to {MAX_ALIGNMENT} is one"
    )


def _read_tensors(reader: _Reader, num_tensors: int, alignment: int) -> tuple[GgufTensor, ...]:
    told = [_read_tensor(reader, alignment) for _ in range(num_tensors)]
    if len({tensor.name for tensor in told}) < len(told):
        raise reader.refused("two of its tensors have the same name")
    start = -(-reader.at // alignment) * alignment
    tensors = tuple(GgufTensor(t.name, t.shape, t.kind, start + t.offset) for t in told)
    _require_places(reader, tensors)
    return tensors


def _read_tensor(reader: _Reader, alignment: int) -> GgufTensor:
    """As it is told: its offset counts from the first weight."""
    name = reader.text("a tensor's name", MAX_TENSOR_NAME_BYTES)
    num_dimensions = reader.number(_U32)
    if num_dimensions > MAX_DIMENSIONS:
        raise reader.refused(
            f"tensor {_shown(name)} has {num_dimensions} dimensions, and {MAX_DIMENSIONS} are "
            "allowed"
        )
    shape = tuple(reader.number(_U64) for _ in range(num_dimensions))
    kind = TENSOR_TYPES.get(code := reader.number(_U32))
    offset = reader.number(_U64)
    if kind is None:
        raise reader.refused(
            f"tensor {_shown(name)} is of type {code}, which is none that is known here",
            fix="take another quantisation of the model, or update fabstir",
        )
    if math.prod(shape) > _MAX_ELEMENTS or (shape and shape[0] % kind.block_size):
        raise reader.refused(f"tensor {_shown(name)} has a shape that {kind.name} cannot have")
    if offset % alignment:
        raise reader.refused(f"tensor {_shown(name)} is not aligned to {alignment} bytes")
    return GgufTensor(name, shape, kind, offset)


def _require_places(reader: _Reader, tensors: tuple[GgufTensor, ...]) -> None:
    """See that every tensor is in the file, and none in another's place."""
    for tensor in tensors:
        if tensor.offset + tensor.num_bytes > reader.file_bytes:
            raise reader.refused(
                f"tensor {_shown(tensor.name)} ends at byte {tensor.offset + tensor.num_bytes}, "
                f"behind the file's end at {reader.file_bytes}"
            )
    filled = sorted((t for t in tensors if t.num_bytes), key=lambda tensor: tensor.offset)
    for one, next_one in pairwise(filled):
        if one.offset + one.num_bytes > next_one.offset:
            raise reader.refused(
                f"tensors {_shown(one.name)} and {_shown(next_one.name)} share bytes of the file"
            )


class _Reader:
    """Steps over a file from its beginning, and holds what it has stepped over.

    Not mapped into memory: a file that somebody shortens meanwhile would end this process.
    """

    def __init__(self, file: BinaryIO, file_bytes: int, name: str) -> None:
        self.name = name
        self.file_bytes = file_bytes
        self.at = 0
        self._file = file
        self._data = bytearray()

    def refused(self, cause: str, fix: str = "fetch it again, or from another source") -> Exception:
        """The error to raise."""
        return GgufRefused(f"{self.name} has a GGUF header that is not loaded: {cause}; {fix}")

    def start(self) -> bytes:
        """The first bytes, as many as there are; for what may be of any other format."""
        self._fill(_START.size)
        self.at = min(_START.size, len(self._data))
        return bytes(self._data[: self.at])

    def number(self, layout: struct.Struct) -> int:
        """One whole number."""
        start = self._step(layout.size)
        value: int = layout.unpack_from(self._data, start)[0]
        return value

    def count(self, what: str, limit: int, least_bytes: int, *, pairs_too: bool = False) -> int:
        """How many of something follow, each of at least so many bytes.

        Args:
            pairs_too: another count stands between this one and what it counts.
        """
        found = self.number(_U64)
        left = self.file_bytes - self.at - (_U64.size if pairs_too else 0)
        if found > limit or found * least_bytes > left:
            raise self.refused(
                f"it claims {found} {what}, of which {left} bytes and a model have no room"
                if found <= limit
                else f"it claims {found} {what}, and {limit} are the most that a model has"
            )
        return found

    def text(self, what: str, limit: int) -> str:
        """One string that names something."""
        size = self.number(_U64)
        if size > limit:
            raise self.refused(f"{what} has {size} bytes, and {limit} are the most")
        start = self._step(size)
        try:
            return self._data[start : start + size].decode()
        except UnicodeDecodeError as exc:
            raise self.refused(f"{what} is no UTF-8") from exc

    def value(self, key: str) -> GgufValue:
        """The type of a value, and the value. What is no UTF-8 in a text becomes U+FFFD."""
        kind = self._kind(key)
        if kind is ValueKind.ARRAY:
            return self._array(key)
        if kind is ValueKind.STRING:
            size = self.number(_U64)
            start = self._step(size)
            return self._data[start : start + size].decode(errors="replace")
        layout = _NUMBERS[kind]
        start = self._step(layout.size)
        value: int | float = layout.unpack_from(self._data, start)[0]
        return value

    def _kind(self, key: str) -> ValueKind:
        code = self.number(_U32)
        try:
            return ValueKind(code)
        except ValueError as exc:
            raise self.refused(f"the value of {_shown(key)} is of the unknown type {code}") from exc

    def _array(self, key: str) -> GgufArray:
        kind = self._kind(key)
        length = self.number(_U64)
        start = self.at
        if kind is ValueKind.ARRAY:  # as llama.cpp has it: no model has one
            raise self.refused(f"the value of {_shown(key)} is an array of arrays")
        if kind is ValueKind.STRING:
            self._step_strings(key, length)
        else:
            self._step(length * _NUMBERS[kind].size)
        return GgufArray(kind, length, memoryview(bytes(self._data[start : self.at])))

    def _step_strings(self, key: str, length: int) -> None:
        if length * _U64.size > self.file_bytes - self.at:
            raise self.refused(f"{_shown(key)} claims {length} strings, for which there is no room")
        for _ in range(length):
            self._step(self.number(_U64))

    def _step(self, size: int) -> int:
        """Go over the next bytes.

        Returns:
            Where they start.
        """
        start, end = self.at, self.at + size
        if end > len(self._data):
            self._require(end)
        self.at = end
        return start

    def _require(self, end: int) -> None:
        if end > self.file_bytes:
            raise self.refused(
                f"something in it ends at byte {end}, and the file has {self.file_bytes}: it is "
                "cut off, or lies"
            )
        if end > MAX_HEADER_BYTES:
            raise self.refused(f"it is longer than {MAX_HEADER_BYTES} bytes, which no model's is")
        self._fill(end)
        if end > len(self._data):
            raise self.refused("the file became shorter while it was read")

    def _fill(self, end: int) -> None:
        """Have the bytes up to `end`, and some more, where the file has them."""
        while len(self._data) < end:
            block = self._file.read(max(_BLOCK_BYTES, end - len(self._data)))
            if not block:
                return
            self._data += block


def _shown(text: str) -> str:
    """A name of the file's own, for a person to read."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
