"""Canonical encodings: JSON with one byte form, multibase."""

from __future__ import annotations

import json
import re
from base64 import b32decode, b32encode, b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from itertools import accumulate

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""Any JSON value."""

_B58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_B58_INDEX = {letter: index for index, letter in enumerate(_B58)}

_JSON_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, or the rest of the text if it does not end: so that a search never starts twice."""

_NO_BRACKETS = re.compile(r"[^][{}]+")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""One level in and, as signed bytes, one level out."""

MAX_MULTIBASE_CHARS = 256
"""Longest identifier that is decoded: a 43-byte CID has 87 digits in hex, and base 58 costs the
square of its length (100,000 letters took a second)."""


def canonical_json(value: Json) -> bytes:
    """Compact JSON with sorted keys, UTF-8, no escapes beyond JSON's own: one byte form a value.

    Era-C clients sign this form of `messages` and `checkpoints`. What is hashed or signed holds no
    fractions: languages write those differently.

    Raises:
        ValueError: an infinity, a NaN or a lone surrogate, which JSON cannot carry.
    """
    text = json.dumps(
        value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
    )
    return text.encode("utf-8")


def parse_json(data: str | bytes, *, max_depth: int) -> object:
    """Parse JSON in UTF-8 that somebody else wrote.

    Python's parser recurses, and trusts the interpreter's recursion limit to stop it. A library
    below eth-account sets that limit to 100,000, far beyond the stack: 100,000 nested brackets
    ended the process with a segmentation fault. So the nesting is measured first.

    Raises:
        UnicodeDecodeError: not UTF-8 (json.loads alone would take UTF-16 and UTF-32 as well).
        ValueError: not JSON, deeper than `max_depth`, or a number that JSON cannot write.
    """
    text = data.decode() if isinstance(data, bytes) else data
    if not _is_shallow(text, max_depth):
        raise ValueError(f"JSON is nested more than {max_depth} levels deep")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as exc:
        if "set_int_max_str_digits" not in str(exc):
            raise
        # Python's words advise a peer how to run our interpreter.
        raise ValueError("an integer has more digits than any that is read here") from exc


def _is_shallow(text: str, max_depth: int) -> bool:
    if text.count("[") + text.count("{") <= max_depth:
        return True
    brackets = _NO_BRACKETS.sub("", _JSON_STRING.sub("", text)).encode()
    steps = memoryview(brackets.translate(_STEPS)).cast("b")
    return max(accumulate(steps), default=0) <= max_depth


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def encode_base58(data: bytes) -> str:
    """Bitcoin's base 58, without a checksum."""
    number = int.from_bytes(data, "big")
    out = ""
    while number:
        number, digit = divmod(number, 58)
        out = _B58[digit] + out
    zeros = len(data) - len(data.lstrip(b"\0"))
    return _B58[0] * zeros + out


def decode_base58(text: str) -> bytes:
    """The inverse of `encode_base58`.

    Raises:
        ValueError: a letter outside the alphabet, or longer than MAX_MULTIBASE_CHARS.
    """
    if len(text) > MAX_MULTIBASE_CHARS:
        raise ValueError(f"base 58 identifiers have at most {MAX_MULTIBASE_CHARS} letters")
    number = 0
    for letter in text:
        if letter not in _B58_INDEX:
            raise ValueError(f"{letter!r} is not a base 58 letter")
        number = number * 58 + _B58_INDEX[letter]
    zeros = len(text) - len(text.lstrip(_B58[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def encode_multibase(data: bytes, base: str) -> str:
    """Multibase text: `f` hex, `b` base 32, `z` base 58, `u` base64url, `m` base 64; none is
    padded."""
    if base == "f":
        return "f" + data.hex()
    if base == "b":
        return "b" + b32encode(data).decode().rstrip("=").lower()
    if base == "z":
        return "z" + encode_base58(data)
    if base == "u":
        return "u" + urlsafe_b64encode(data).decode().rstrip("=")
    if base == "m":
        return "m" + b64encode(data).decode().rstrip("=")
    raise ValueError(f"{base!r} is not one of the multibase prefixes f, b, z, u, m")


def decode_multibase(text: str) -> bytes:
    """The inverse of `encode_multibase`: one text a value, no other spelling of it.

    Raises:
        ValueError: unknown prefix, a letter outside the alphabet, padding, left-over bits, or
            longer than MAX_MULTIBASE_CHARS.
    """
    if len(text) > MAX_MULTIBASE_CHARS:
        raise ValueError(f"identifiers have at most {MAX_MULTIBASE_CHARS} characters")
    value = _decode_base(text[:1], text[1:])
    # Python's decoders skip foreign letters (base 64), white space (hex) and left-over bits, so
    # that one value would have many names.
    if encode_multibase(value, text[:1]) != text:
        raise ValueError("the identifier is not in its canonical form")
    return value


def _decode_base(base: str, body: str) -> bytes:
    if base == "f":
        return bytes.fromhex(body)
    if base == "b":
        return b32decode(body.upper() + "=" * (-len(body) % 8))
    if base == "z":
        return decode_base58(body)
    if base == "u":
        return urlsafe_b64decode(body + "=" * (-len(body) % 4))
    if base == "m":
        return b64decode(body + "=" * (-len(body) % 4))
    raise ValueError(f"{base!r} is not one of the multibase prefixes f, b, z, u, m")
