"""Typed access to a JSON object that a peer sent.

Every getter takes all spellings of a field (era-C clients mix snake_case and camelCase) and
raises RemoteProtocolError, never another error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

from fabstir.primitives.decimals import parse_decimal, round_decimal
from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, Hash32, parse_address, parse_hash32
from fabstir.protocol.crypto import is_curve_point
from fabstir.protocol.limits import MAX_FRAME_BYTES, MAX_ID_CHARS, MAX_JSON_DEPTH

_DECIMAL = re.compile(r"[0-9]{1,78}")
_UINT256 = 1 << 256
_EXACT_FLOAT = 1 << 53

UNKNOWN: Final = "unknown"
"""Stands for a word that is not of the closed set where it stood: of a later version, or rubbish.
Nothing that depends on the word is worth ending a paid session for."""


class Fields:
    """One JSON object; `where` names it in errors."""

    def __init__(self, raw: Mapping[str, object], where: str) -> None:
        self.raw = raw
        self.where = where

    @classmethod
    def parse(cls, data: str | bytes, where: str) -> Fields:
        """Parse one JSON object in UTF-8 of at most MAX_FRAME_BYTES."""
        raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        if len(raw) > MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"{where} is longer than {MAX_FRAME_BYTES} bytes")
        try:
            value = parse_json(raw, max_depth=MAX_JSON_DEPTH)
        except UnicodeDecodeError as exc:
            raise RemoteProtocolError(f"{where} is not UTF-8", code="INVALID_UTF8") from exc
        except ValueError as exc:
            raise RemoteProtocolError(f"{where} is not JSON: {exc}") from exc
        return cls.of(value, where)

    @classmethod
    def of(cls, value: object, where: str) -> Fields:
        """View a JSON value as an object."""
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"{where} is not a JSON object")
        return cls(cast("dict[str, object]", value), where)

    def _error(self, name: str, expected: str, code: str = "INVALID_PAYLOAD") -> Exception:
        return RemoteProtocolError(f"{self.where}: {name} must be {expected}", code=code)

    def get(self, *names: str) -> object:
        """The first spelling that is there and not null, else None."""
        return next((self.raw[name] for name in names if self.raw.get(name) is not None), None)

    def text(self, *names: str, limit: int = MAX_FRAME_BYTES) -> str:
        value = self.get(*names)
        if not isinstance(value, str) or len(value) > limit:
            raise self._error(names[0], f"text of at most {limit} characters")
        try:
            value.encode()  # lone surrogates are JSON, but no Unicode text
        except UnicodeEncodeError as exc:
            raise self._error(names[0], "text without lone surrogates", "INVALID_UTF8") from exc
        return value

    def optional_text(self, *names: str, limit: int = MAX_FRAME_BYTES) -> str | None:
        return None if self.get(*names) is None else self.text(*names, limit=limit)

    def word(self, *names: str, known: frozenset[str]) -> str:
        """One of a closed set of words; UNKNOWN for any other text, whatever it holds."""
        value = self.text(*names)
        return value if value in known else UNKNOWN

    def optional_word(self, *names: str, known: frozenset[str]) -> str | None:
        return None if self.get(*names) is None else self.word(*names, known=known)

    def identifier(self, *names: str) -> str:
        """An id as text; a number is taken as its decimal form."""
        value = self.get(*names)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(self.integer(*names))
        return self.text(*names, limit=MAX_ID_CHARS)

    def optional_identifier(self, *names: str) -> str | None:
        return None if self.get(*names) is None else self.identifier(*names)

    def integer(self, *names: str, limit: int = _UINT256) -> int:
        """An unsigned integer below `limit`, as a JSON number or a decimal string."""
        value = self.get(*names)
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
            value = int(value)  # 7.0; beyond 2^53 it would be another number than was written
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
            raise self._error(names[0], f"an unsigned integer below {limit}")
        return value

    def optional_integer(self, *names: str, limit: int = _UINT256) -> int | None:
        return None if self.get(*names) is None else self.integer(*names, limit=limit)

    def decimal(self, *names: str, low: float, high: float) -> float:
        """A number from `low` to `high`, as decimal text or a whole JSON number.

        Fractions as JSON numbers are refused: what a digest covers must not hang on how a language
        writes them.
        """
        value = self.get(*names)
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        try:
            number = parse_decimal(text) if isinstance(text, str) else None
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise self._error(
                names[0], f"decimal text from {low:g} to {high:g}, at most 6 decimals"
            )
        return number

    def fraction(self, *names: str, default: float, high: float) -> float:
        """A fraction as era-C clients write it: a JSON number from 0 to `high`, or not there."""
        value = self.get(*names)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(names[0], "a number")
        if not 0 <= value <= high:
            raise self._error(names[0], f"between 0 and {high:g}")
        return round_decimal(value)

    def refuse_others(self, known: frozenset[str]) -> None:
        """Refuse a field that is none of `known`: ignored, it would be answered and billed as if
        it had not been asked for.
        """
        others = [
            name for name, value in self.raw.items() if value is not None and name not in known
        ]
        if others:
            shown = repr(others[0][:64])
            raise RemoteProtocolError(
                f"{self.where} has {shown}, which this version does not know: leave it out",
                code="UNSUPPORTED_REQUEST",
            )

    def flag(self, *names: str) -> bool:
        return self.get(*names) is True

    def optional_flag(self, *names: str) -> bool | None:
        """True, false or not there; nothing else."""
        value = self.get(*names)
        if value is not None and not isinstance(value, bool):
            raise self._error(names[0], "true or false")
        return value

    def hex(
        self, *names: str, size: int | None = None, code: str = "INVALID_HEX_ENCODING"
    ) -> bytes:
        """Bytes in hex, with or without 0x; exactly `size` of them if it is given."""
        text = self.text(*names)
        digits = text[2:] if text[:2] in {"0x", "0X"} else text
        try:
            value = bytes.fromhex(digits)
        except ValueError as exc:
            raise self._error(names[0], "hex", "INVALID_HEX_ENCODING") from exc
        if 2 * len(value) != len(digits):  # fromhex skips white space
            raise self._error(names[0], "hex without spaces", "INVALID_HEX_ENCODING")
        if size is not None and len(value) != size:
            raise self._error(names[0], f"{size} bytes, not {len(value)}", code)
        return value

    def point(self, *names: str) -> bytes:
        """A compressed secp256k1 public key in hex."""
        value = self.hex(*names, size=33)
        if not is_curve_point(value):
            raise self._error(names[0], "a compressed secp256k1 point")
        return value

    def hash32(self, *names: str) -> Hash32:
        try:
            return parse_hash32(self.text(*names, limit=66))
        except ValueError as exc:
            raise self._error(names[0], "32 bytes of hex", "INVALID_HEX_ENCODING") from exc

    def address(self, *names: str) -> Address:
        try:
            return parse_address(self.text(*names, limit=42))
        except ValueError as exc:
            raise self._error(names[0], "an address", "INVALID_HEX_ENCODING") from exc

    def child(self, *names: str, code: str = "MISSING_PAYLOAD_FIELDS") -> Fields:
        value = self.get(*names)
        if value is None:
            raise self._error(names[0], "present", code)
        return Fields.of(value, f"{self.where}.{names[0]}")

    def optional_child(self, *names: str) -> Fields | None:
        return None if self.get(*names) is None else self.child(*names)

    def items(self, *names: str, limit: int) -> list[object]:
        """A list of at most `limit` values."""
        value = self.get(*names)
        if not isinstance(value, list):
            raise self._error(names[0], "a list")
        values = cast("list[object]", value)
        if len(values) > limit:
            raise self._error(names[0], f"a list of at most {limit}")
        return values

    def children(self, *names: str, limit: int) -> list[Fields]:
        values = self.items(*names, limit=limit)
        return [Fields.of(v, f"{self.where}.{names[0]}[{i}]") for i, v in enumerate(values)]

    def optional_children(self, *names: str, limit: int) -> list[Fields]:
        """None of them if the field is not there."""
        return [] if self.get(*names) is None else self.children(*names, limit=limit)

    def texts(self, *names: str, limit: int, chars: int) -> tuple[str, ...]:
        values = self.items(*names, limit=limit)
        holder = (Fields({"item": v}, f"{self.where}.{names[0]}") for v in values)
        return tuple(field.text("item", limit=chars) for field in holder)
