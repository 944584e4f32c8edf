"""The journal that the settings name: a file in the data folder, or a schema on a server.

A journal is what says which deposits and earnings are under way, so another one is never begun
beside it without a word. The data folder remembers that a server has it (`host.postgresql`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fabstir.config import Settings
from fabstir.db._sqlite import opening_error
from fabstir.db.database import Database, DatabaseReader, open_database, open_reader
from fabstir.db.files import OpenToOthers, make_private_folder, read_secret, replace_private
from fabstir.primitives.edited_text import decode_edited
from fabstir.primitives.errors import ConfigError

JournalOwner = Literal["host", "renter"]

_MAX_PASSWORD_BYTES = 64 * 1024
_MAX_MARK_BYTES = 4096


def make_data_folder(folder: Path) -> None:
    """Make the folder of a journal, as `make_private_folder`.

    Raises:
        ConfigError: it cannot be made.
        StorageFull: the disk has no room for it.
    """
    try:
        make_private_folder(folder)
    except OSError as exc:
        raise opening_error(exc, folder) from exc


@asynccontextmanager
async def open_journal(settings: Settings, owner: JournalOwner) -> AsyncGenerator[Database]:
    """Open the journal of a host or a renter, and hold it alone.

    Raises:
        ConfigError, StorageError: as `open_database`; and where it was kept elsewhere before.
    """
    where = _locate(settings, owner)
    async with open_database(where.url, password=where.password, may_begin=where.may_begin) as db:
        where.remember(db.place)
        yield db


@asynccontextmanager
async def open_journal_reader(
    settings: Settings, owner: JournalOwner
) -> AsyncGenerator[DatabaseReader]:
    """Read the journal beside whoever holds it. Errors: as `open_journal`."""
    where = _locate(settings, owner)
    async with open_reader(where.url, password=where.password, may_begin=where.may_begin) as db:
        where.remember(db.place)
        yield db


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """Attributes:
    mark: the file that remembers a server; None: the journal is a file itself.
    """

    url: str
    password: str | None = None
    may_begin: bool = True
    mark: Path | None = None

    def remember(self, place: str) -> None:
        if self.mark is None:
            return
        content = f"{place}\n".encode()
        try:
            if not self.mark.exists() or self.mark.read_bytes() != content:
                replace_private(self.mark, content)
        except OSError as exc:
            raise opening_error(exc, self.mark) from exc


def _locate(settings: Settings, owner: JournalOwner) -> _Where:
    folder, database = settings.paths.data_dir, settings.database
    make_data_folder(folder)
    file, mark = folder / f"{owner}.sqlite", folder / f"{owner}.postgresql"
    if database.url is None:
        if mark.exists():
            raise ConfigError(
                f"the {owner}'s journal is at {_marked(mark)}, and database.url does not name it: "
                f"set it; or, to begin anew without what that holds, move {mark} away"
            )
        return _Where(url=f"sqlite:///{file}")
    if file.exists():
        raise ConfigError(
            f"the {owner}'s journal is {file}, and database.url names another place: finish what "
            f"is open there without database.url, then move {file} away"
        )
    joint = "&" if "?" in database.url else "?"
    return _Where(
        url=f"{database.url}{joint}schema={database.schema}_{owner}",
        password=_password(database.password_file),
        may_begin=not mark.exists(),
        mark=mark,
    )


def _marked(mark: Path) -> str:
    return mark.read_text(encoding="utf-8", errors="replace")[:_MAX_MARK_BYTES].strip()


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        text, _ = decode_edited(read_secret(file, _MAX_PASSWORD_BYTES))
    except OpenToOthers as exc:
        raise ConfigError(
            f"{file} can be read by other users (mode {exc.mode:04o}): run `chmod 600 {file}`"
        ) from exc
    except OSError as exc:
        raise ConfigError(
            f"{file}, which database.password_file names, cannot be read: {exc.strerror}"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file} is not a text file") from exc
    return text.rstrip("\r\n")
