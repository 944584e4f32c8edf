"""One setting's value: from a TOML value or from text, checked, and back to text."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabstir.config.homes import expanded

SettingScalar = str | int | float | bool | Path | tuple[str, ...] | None
"""Every type that a setting can have."""


@dataclass(frozen=True, slots=True)
class Between:
    """The allowed range of a number, both ends included."""

    low: float
    high: float = math.inf


@dataclass(frozen=True, slots=True)
class Matches:
    """The allowed form of a text."""

    pattern: str
    expected: str


@dataclass(frozen=True, slots=True)
class SettingType:
    """The type of one setting, as its dataclass declares it.

    Both parsers raise ValueError; the caller knows where the value stood and says so.
    """

    base: type
    is_optional: bool
    limit: Between | Matches | None

    @property
    def expected(self) -> str:
        """What a person should write, in words."""
        words = _KINDS[self.base]
        if isinstance(self.limit, Matches):
            words = self.limit.expected
        elif self.limit is not None:
            words += f" from {self.limit.low}"
            words += f" to {self.limit.high}" if self.limit.high < math.inf else ""
        return words + (", or nothing" if self.is_optional else "")

    def from_text(self, text: str, folder: Path) -> SettingScalar:
        """Parse what a flag or an environment variable holds; a path starts at `folder`."""
        if self.is_optional and not text:
            return None
        return self._checked(_FROM_TEXT[self.base](text), folder)

    def from_toml(self, raw: object, folder: Path) -> SettingScalar:
        """Accept what the file holds; a path starts at `folder`."""
        return self._checked(_from_toml(self.base, raw), folder)

    def _checked(self, value: SettingScalar, folder: Path) -> SettingScalar:
        match self.limit, value:
            case Between(low, high), int() | float() if not low <= value <= high:
                raise ValueError
            case Matches(pattern), str() if not re.fullmatch(pattern, value):
                raise ValueError
            case _:
                pass
        return resolve(value, folder)


def resolve(value: SettingScalar, folder: Path) -> SettingScalar:
    """Expand ~ in a path and make it absolute, seen from `folder`; other values stay.

    Raises:
        NoHome: there is nothing that ~ could be.
    """
    return folder / expanded(value) if isinstance(value, Path) else value


def setting_types(section: type) -> dict[str, SettingType]:
    """The settings of one section's dataclass, in the order of their definition."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {f.name: _setting_type(hints[f.name]) for f in dataclasses.fields(section)}


def to_toml(value: SettingScalar) -> str:
    """Write a value as a TOML literal on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(to_toml(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return '"' + "".join(_escape(c) for c in str(value)) + '"'


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08X}"


def _setting_type(hint: Any, limit: Between | Matches | None = None) -> SettingType:
    if typing.get_origin(hint) is typing.Annotated:
        inner, constraint = typing.get_args(hint)
        return _setting_type(inner, constraint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        return dataclasses.replace(_setting_type(inner, limit), is_optional=True)
    base = typing.get_origin(hint) or getattr(hint, "__supertype__", hint)
    return SettingType(base=base, is_optional=False, limit=limit)


_MAX_DIGITS = 80
"""As many as 2^256 has, and the sign."""


def _int_from_text(text: str) -> int:
    if len(text) > _MAX_DIGITS or not re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)*", text):
        raise ValueError
    return int(text)


def _float_from_text(text: str) -> float:
    if len(text) > _MAX_DIGITS or not text.isascii():
        raise ValueError
    return float(text)


def _bool_from_text(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


def _path_from_text(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)


def _list_from_text(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _from_toml(base: type, raw: object) -> SettingScalar:
    match base, raw:
        case (builtin, bool()) if builtin is not bool:
            raise ValueError
        case (builtin, int()) if builtin is float:
            return float(raw)
        case (builtin, str()) if builtin is Path:
            return _path_from_text(raw)
        case (builtin, list()) if builtin is tuple:
            return _texts(typing.cast("list[object]", raw))
        case (_, str() | int() | float()) if isinstance(raw, base):
            return raw
        case _:
            raise ValueError


def _texts(raw: list[object]) -> tuple[str, ...]:
    texts = tuple(item for item in raw if isinstance(item, str))
    if len(texts) != len(raw):
        raise ValueError
    return texts


_KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    tuple: "a list of texts (in a flag or variable: separated by commas)",
}

_FROM_TEXT: dict[type, Callable[[str], SettingScalar]] = {
    str: str,
    int: _int_from_text,
    float: _float_from_text,
    bool: _bool_from_text,
    Path: _path_from_text,
    tuple: _list_from_text,
}
