"""A part file and its journal: what of it came, from where, and that it is still what came.

After every block its checksum is journalled. Who goes on later reads the part once, which the
digest of the whole needs anyway, and cuts it where a block is not what it was: a power cut leaves
zeros, a failing disk anything. What came after the last whole block is kept unseen: the digest of
the whole decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, cast

from fabstir.db.files import append_to, open_own, replace_private
from fabstir.primitives.ids import Hash32, hash32

MODEL_MODE: Final = 0o666
"""Less the umask: a model is no secret, and users of one machine may share it."""

BLOCK_BYTES: Final = 32 << 20
"""What is fetched again where a part is damaged; one line of the journal each."""

_READ_BYTES: Final = 1 << 20
"""No more than a block."""


def discard(part: Path) -> None:
    """Forget a part file, so that the next download starts at its first byte."""
    _journal_of(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _journal_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


@dataclass(slots=True)
class ModelPart:
    """A file that is being fetched. Made by `ModelPart.resumed`.

    Attributes:
        content: stands for what the file is to be: its digest, else its address.
        url: stands for the address that the bytes so far came from.
        validator: that address's ETag or date, "" where it told none.
        size: bytes so far.
    """

    path: Path
    content: str
    url: str = ""
    validator: str = ""
    size: int = 0
    _blocks: list[int] = field(default_factory=list[int])
    _crc: int = 0
    _digest: hashlib._Hash = field(  # pyright: ignore[reportPrivateUsage] - it has no public name
        default_factory=hashlib.sha256
    )

    @classmethod
    def resumed(cls, path: Path, content: str) -> ModelPart:
        """What an earlier try of the same content left; blocks for as long as reading it takes.

        Raises:
            OSError: the disk fails.
        """
        part = cls(path, content)
        told = _read_journal(path)
        if told.get("content") != content or not _is_plain(path):
            return part
        part.url, part.validator = str(told.get("url", "")), str(told.get("validator", ""))
        blocks = told.get("blocks")
        part._take(cast("list[object]", blocks) if isinstance(blocks, list) else [])
        return part

    def _take(self, journalled: list[object]) -> None:
        """Read the part, up to the first block that is not what was journalled."""
        with os.fdopen(open_own(self.path, os.O_RDONLY), "rb") as file:
            while data := file.read(_READ_BYTES):
                self._add(data)
                last = len(self._blocks) - 1
                if 0 <= last < len(journalled) and self._blocks[last] != journalled[last]:
                    break
            else:
                return
        self._cut(last * BLOCK_BYTES)

    def _cut(self, size: int) -> None:
        """Keep so many bytes, whole blocks, and read them again for their digest."""
        with append_to(self.path, MODEL_MODE) as file:
            file.truncate(size)
        self.size, self._crc, self._blocks, self._digest = 0, 0, [], hashlib.sha256()
        with os.fdopen(open_own(self.path, os.O_RDONLY), "rb") as file:
            while data := file.read(_READ_BYTES):
                self._add(data)

    def begin(self, url: str, validator: str) -> None:
        """Start at the first byte, of another address or of a file that has changed."""
        discard(self.path)
        self.url, self.validator = url, validator
        self.size, self._crc, self._blocks, self._digest = 0, 0, [], hashlib.sha256()
        append_to(self.path, MODEL_MODE).close()
        self._note()

    def open(self) -> BinaryIO:
        """The file, to give to `write`."""
        return append_to(self.path, MODEL_MODE)

    def write(self, file: BinaryIO, data: bytes) -> None:
        """Add what came; journals it where a block is whole. Raises OSError: the disk is full."""
        num_whole = len(self._blocks)
        file.write(data)
        self._add(data)
        if len(self._blocks) > num_whole:
            file.flush()
            self._note()

    @property
    def sha256(self) -> Hash32:
        """Of all that came."""
        return hash32(self._digest.digest())

    def _add(self, data: bytes) -> None:
        self._digest.update(data)
        for piece in _at_blocks(data, BLOCK_BYTES - self.size % BLOCK_BYTES):
            self._crc = zlib.crc32(piece, self._crc)
            self.size += len(piece)
            if self.size % BLOCK_BYTES == 0:
                self._blocks.append(self._crc)
                self._crc = 0

    def _note(self) -> None:
        told = {
            "content": self.content,
            "url": self.url,
            "validator": self.validator,
            "blocks": self._blocks,
        }
        replace_private(_journal_of(self.path), json.dumps(told).encode())


def _at_blocks(data: bytes, first: int) -> list[bytes]:
    """Cut at the ends of blocks; one piece nearly always."""
    if len(data) <= first:
        return [data]
    rest = range(first, len(data), BLOCK_BYTES)
    return [data[:first], *(data[start : start + BLOCK_BYTES] for start in rest)]


def _read_journal(part: Path) -> dict[str, object]:
    try:
        told: object = json.loads(_journal_of(part).read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", told) if isinstance(told, dict) else {}


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
