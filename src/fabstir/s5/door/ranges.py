"""Range, If-Range, If-Match and If-None-Match (RFC 9110, sections 8.8.3, 13 and 14), as values.

Nothing here does I/O. What cannot be understood is ignored where the RFC says so; nothing that a
client writes into these headers raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

_BYTES = re.compile(r"bytes=[ \t]*([0-9]{0,1000})-([0-9]{0,1000})[ \t]*", re.ASCII | re.IGNORECASE)
"""One range. Longer numbers are ignored: Python itself refuses those of more than 4,300 digits."""

_ETAG = re.compile(r'[ \t,]*(W/)?"([!#-\x7e\x80-\xff]*)"[ \t]*(?=,|$)')

MAX_ETAGS = 64
"""Tags of one condition that are looked at; a client that lists more than a few is no client."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes from `start`, `end` not included."""

    start: int
    end: int

    def content_range(self, size: int) -> str:
        """The value of Content-Range."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


class Unsatisfiable(Enum):
    """The range begins behind the end: 416."""

    UNSATISFIABLE = "unsatisfiable"


def parse_range(header: str | None, size: int) -> ByteRange | Unsatisfiable | None:
    """What a Range header asks for of a representation of `size` bytes.

    Returns:
        None: everything. That is also the answer to other units, to what is malformed and to
        several ranges at once, all of which a server may ignore.
    """
    match = _BYTES.fullmatch(header.strip(" \t")) if header is not None else None
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        return _suffix(last, size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        return Unsatisfiable.UNSATISFIABLE
    return ByteRange(start, min(int(last) + 1, size) if last else size)


def _suffix(digits: str, size: int) -> ByteRange | Unsatisfiable | None:
    if not digits:
        return None
    length = min(int(digits), size)
    return ByteRange(size - length, size) if length else Unsatisfiable.UNSATISFIABLE


@dataclass(frozen=True, slots=True)
class Condition:
    """An If-Match or If-None-Match.

    Attributes:
        tags: the opaque tags without quotes, with whether each is weak.
        is_any: it is `*`.
    """

    tags: tuple[tuple[str, bool], ...] = ()
    is_any: bool = False

    def names(self, is_it: Callable[[str], bool], *, is_strong: bool) -> bool:
        """Whether one of the tags is the representation's.

        Args:
            is_it: compares one opaque tag.
            is_strong: weak tags match nothing, as If-Match and If-Range demand.
        """
        return self.is_any or any(
            is_it(tag) for tag, is_weak in self.tags if not (is_weak and is_strong)
        )


def parse_condition(header: str | None) -> Condition | None:
    """A list of entity tags; None: the header is not there or holds none."""
    if header is None:
        return None
    if header.strip(" \t") == "*":
        return Condition(is_any=True)
    tags: list[tuple[str, bool]] = []
    position = 0
    while len(tags) < MAX_ETAGS and (match := _ETAG.match(header, position)):
        tags.append((match[2], match[1] is not None))
        position = match.end()
    return Condition(tuple(tags))


def allows_range(if_range: str | None, is_it: Callable[[str], bool]) -> bool:
    """Whether a Range still counts under this If-Range.

    Dates never match: blobs have none.
    """
    if if_range is None:
        return True
    condition = parse_condition(if_range)
    if condition is None or condition.is_any or len(condition.tags) != 1:
        return False
    return condition.names(is_it, is_strong=True)
