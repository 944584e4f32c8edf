"""CBOR as S5 uses it: one reader for untrusted input, and two writers.

The reader is our own, in Python, rather than cbor2, which is some six times as fast (ADR 0009):
cbor2 follows tags (shared references that make cycles, regular expressions), takes arrays as keys,
whose hashes an attacker can make collide, ignores what follows the first item, and makes 70 MiB of
objects out of 1 MiB of empty lists. And the browser build runs this file, for which cbor2 has no
wheel.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.directory import Cbor
from fabstir.s5.formats.limits import MAX_CBOR_DEPTH

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)

_SIMPLE_VALUES: Final[dict[int, Cbor]] = {0xF4: False, 0xF5: True, 0xF6: None, 0xF7: None}
"""The fourth is JavaScript's undefined: S5.js writes it for links that it lost."""

_FLOAT_FORMS: Final = {0xF9: (2, ">e"), 0xFA: (4, ">f"), 0xFB: (8, ">d")}

_MAX_SAFE_INTEGER: Final = (1 << 53) - 1
"""The largest integer that a number of JavaScript holds exactly, with all below it."""

_BYTES_PER_CONTAINER: Final = 8
"""A list or map costs some 60 bytes of memory, and one byte of CBOR. Directories have one in 40
bytes; a document with more than one in 8 is made to fill memory."""

_FREE_CONTAINERS: Final = 64


class PlainObject(dict[Cbor, Cbor]):
    """A map that S5.js makes from an object rather than a Map: `b9` and 16 bits of length."""


class BigInt(int):
    """A number that S5.js holds as a BigInt: always 8 bytes, and no float from 2^32 on."""


class _Reader:
    """One pass over the bytes. Every length is held against what is left before it is used."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._containers = _FREE_CONTAINERS + len(data) // _BYTES_PER_CONTAINER

    def document(self) -> Cbor:
        value = self._item(0)
        if self._position != len(self._data):
            raise RemoteProtocolError("CBOR is followed by bytes that do not belong to it")
        return value

    def _take(self, size: int) -> bytes:
        start = self._position
        end = start + size
        if end > len(self._data):
            raise RemoteProtocolError("CBOR is cut off")
        self._position = end
        return self._data[start:end]

    def _item(self, depth: int) -> Cbor:
        try:
            head = self._data[self._position]
        except IndexError:
            raise RemoteProtocolError("CBOR is cut off") from None
        self._position += 1
        kind, number = head >> 5, head & 31
        if kind == _SIMPLE:
            return self._simple(head)
        if number > 23:
            number = self._number(number)
        if kind == _UINT:
            return number
        if kind == _BYTES:
            return self._take(number)
        if kind == _TEXT:
            return self._text(number)
        if kind == _NEGATIVE:
            return -1 - number
        return self._container(kind, number, depth)

    def _number(self, form: int) -> int:
        if form > 27:
            raise RemoteProtocolError("CBOR with an indefinite length or a reserved form")
        return int.from_bytes(self._take(1 << (form - 24)), "big")

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("CBOR text is not UTF-8") from None

    def _container(self, kind: int, size: int, depth: int) -> Cbor:
        self._containers -= 1
        if kind == _TAG:
            raise RemoteProtocolError("CBOR tags have no meaning in S5")
        if depth >= MAX_CBOR_DEPTH:
            raise RemoteProtocolError(f"CBOR is nested more than {MAX_CBOR_DEPTH} levels deep")
        if self._containers < 0:
            raise RemoteProtocolError("CBOR with more lists and maps than any directory has")
        if size > len(self._data) - self._position:
            raise RemoteProtocolError("CBOR is cut off")
        if kind == _ARRAY:
            return [self._item(depth + 1) for _ in range(size)]
        return self._map(size, depth)

    def _map(self, size: int, depth: int) -> Cbor:
        entries: dict[Cbor, Cbor] = {}
        for _ in range(size):
            key = self._item(depth + 1)
            # By type, not isinstance: True would be the key 1. Other keys are not hashed, because
            # hashes of tuples and floats can be made to collide.
            if type(key) not in _KEY_TYPES:
                raise RemoteProtocolError("CBOR keys are integers, text or bytes in S5")
            entries[key] = self._item(depth + 1)
        if len(entries) != size:
            raise RemoteProtocolError("CBOR map with a key that is there twice")
        return entries

    def _simple(self, head: int) -> Cbor:
        if head in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[head]
        if head not in _FLOAT_FORMS:
            raise RemoteProtocolError("CBOR with an unknown simple value")
        size, form = _FLOAT_FORMS[head]
        return float(struct.unpack(form, self._take(size))[0])


_KEY_TYPES: Final = frozenset({int, str, bytes})


def decode_cbor(data: bytes, *, max_bytes: int) -> Cbor:
    """Read one item, which must fill `data`.

    Read are integers of up to 64 bits, floats, text, bytes, lists, maps, booleans and null, in
    any of their lengths' forms; undefined becomes None. Memory is at most some 30 times `data`.

    Raises:
        RemoteProtocolError: longer than `max_bytes`, cut off, trailing bytes, nested deeper than
            MAX_CBOR_DEPTH, indefinite lengths, tags, other simple values, text that is not UTF-8,
            keys that are twice there or of another type. Never another error, whatever the bytes.
    """
    if len(data) > max_bytes:
        raise RemoteProtocolError(f"CBOR of {len(data)} bytes; at most {max_bytes} are read")
    return _Reader(data).document()


def head_bytes(kind: int, number: int) -> bytes:
    """The first bytes of an item in their shortest form; `kind` is the major type, 0 to 7."""
    if number < 24:
        return bytes((kind << 5 | number,))
    for form, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << (8 * size):
            return bytes((kind << 5 | form,)) + number.to_bytes(size, "big")
    raise ValueError(f"{number} needs more than the 64 bits that CBOR has")


def encode_bytes(value: bytes) -> bytes:
    """A byte string: both writers agree."""
    return head_bytes(_BYTES, len(value)) + value


def encode_text(value: str) -> bytes:
    """A text string: both writers agree. Raises UnicodeEncodeError: a lone surrogate."""
    raw = value.encode()
    return head_bytes(_TEXT, len(raw)) + raw


def encode_canonical(value: Cbor) -> bytes:
    """Deterministic CBOR (RFC 8949, 4.2.1): shortest forms, keys in the order of their bytes.

    A float with an integer's value is written as the integer, as JavaScript does, which cannot
    tell the two apart: so both write what they read in the same bytes.

    Raises:
        ValueError: an integer beyond 64 bits, or a lone surrogate.
    """
    out: list[bytes] = []
    _write_canonical(value, out)
    return b"".join(out)


def _write_canonical(value: Cbor, out: list[bytes]) -> None:
    if isinstance(value, Mapping):
        keyed = sorted((encode_canonical(key), item) for key, item in value.items())
        out.append(head_bytes(_MAP, len(keyed)))
        for key, item in keyed:
            out.append(key)
            _write_canonical(item, out)
    elif isinstance(value, (list, tuple)):
        out.append(head_bytes(_ARRAY, len(value)))
        for item in value:
            _write_canonical(item, out)
    elif isinstance(value, int) and not isinstance(value, bool):
        out.append(_integer(value))
    elif isinstance(value, float):
        out.append(_shortest_float(value))
    else:
        out.append(_atom(value))


def _atom(value: bool | str | bytes | None) -> bytes:
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, bytes):
        return encode_bytes(value)
    if value is None:
        return b"\xf6"
    return b"\xf5" if value else b"\xf4"


def _integer(value: int) -> bytes:
    return head_bytes(_UINT, value) if value >= 0 else head_bytes(_NEGATIVE, -1 - value)


def _shortest_float(value: float) -> bytes:
    if math.isnan(value):
        return b"\xf9\x7e\x00"
    if value.is_integer() and abs(value) <= _MAX_SAFE_INTEGER:
        return _integer(int(value))
    for head, form in ((0xF9, ">e"), (0xFA, ">f")):
        with suppress(OverflowError):
            packed = struct.pack(form, value)
            if struct.unpack(form, packed)[0] == value:
                return bytes((head,)) + packed
    return b"\xfb" + struct.pack(">d", value)


def encode_s5js(value: Cbor) -> bytes:
    """What cbor-x writes with the settings of S5.js: maps in the order that they have.

    Numbers outside of 32 bits become floats, as JavaScript's numbers are. BigInt do not, nor what
    no number of JavaScript holds, so that nothing is rounded.

    Raises:
        ValueError: an integer beyond 64 bits, a PlainObject of more than 65,535 entries, or a lone
            surrogate.
    """
    out: list[bytes] = []
    _write_s5js(value, out)
    return b"".join(out)


def _write_s5js(value: Cbor, out: list[bytes]) -> None:
    if isinstance(value, Mapping):
        out.append(_s5js_map_head(value))
        for key, item in value.items():
            # Not as a float: no reader takes one for a key.
            out.append(encode_canonical(key))
            _write_s5js(item, out)
    elif isinstance(value, (list, tuple)):
        out.append(head_bytes(_ARRAY, len(value)))
        for item in value:
            _write_s5js(item, out)
    elif isinstance(value, int) and not isinstance(value, bool):
        out.append(_s5js_integer(value))
    elif isinstance(value, float):
        out.append(b"\xfb" + struct.pack(">d", value))
    else:
        out.append(_atom(value))


def _s5js_map_head(value: Mapping[Cbor, Cbor]) -> bytes:
    if not isinstance(value, PlainObject):
        return head_bytes(_MAP, len(value))
    if len(value) >= 1 << 16:
        raise ValueError("objects of S5.js have a length of 16 bits")
    return b"\xb9" + len(value).to_bytes(2, "big")


def _s5js_integer(value: int) -> bytes:
    if isinstance(value, BigInt) or abs(value) > _MAX_SAFE_INTEGER:
        kind, number = (_UINT, value) if value >= 0 else (_NEGATIVE, -1 - value)
        if number >= 1 << 64:
            raise ValueError(f"{value} needs more than the 64 bits that CBOR has")
        return bytes((kind << 5 | 27,)) + number.to_bytes(8, "big")
    if -(1 << 31) <= value < 1 << 32:
        return _integer(value)
    return b"\xfb" + struct.pack(">d", value)
