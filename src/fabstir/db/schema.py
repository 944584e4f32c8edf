"""The metadata that every table module declares its tables in, and the column types they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import BigInteger, Dialect, MetaData, String, Text
from sqlalchemy.types import TypeDecorator

_UINT256_DIGITS = 78

NAMING: Final[Mapping[str, str]] = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint gets a name, so that a later migration can change it on any database."""

metadata = MetaData(naming_convention=NAMING)
"""The journal's tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a database holds.

    Attributes:
        what: for people, in errors: "the journal".
        metadata: its tables, as the code declares them.
        modules: those that declare one; each is imported before tables are made.
        migrations: Alembic's folder, which makes and changes them.
        revision: of the newest migration, whose tables the metadata has.
    """

    what: str
    metadata: MetaData
    modules: tuple[str, ...]
    migrations: Path
    revision: str


JOURNAL: Final = Schema(
    what="the journal",
    metadata=metadata,
    modules=(
        *("fabstir.db.chains", "fabstir.db.claims", "fabstir.db.cursors"),
        *("fabstir.db.host_sessions", "fabstir.db.outbox", "fabstir.db.receipts"),
        "fabstir.db.renter",
    ),
    migrations=Path(__file__).parent / "migrations",
    revision="0001",
)
"""The money of a host or a renter."""


def _whole(value: object) -> int:
    """`value`, which SQLite would keep as whatever it is: such a row could never be read again.

    Raises:
        TypeError: it is no integer; a bool is none.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a column of integers was given {value!r}: nothing is written")
    return value


def _word(value: object) -> str:
    """Raises TypeError: it is no text."""
    if not isinstance(value, str):
        raise TypeError(f"a column of text was given {value!r}: nothing is written")
    return value


class Uint256(TypeDecorator[int]):
    """An integer up to 2^256 - 1, kept as decimal text: SQLite's own integers end at 2^63 - 1.

    Not to be compared with < or summed in SQL: the text sorts as text.
    """

    impl = String(_UINT256_DIGITS)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else str(_whole(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        """From the database."""
        return None if value is None else int(value)


class Whole(TypeDecorator[int]):
    """An integer of at most 64 bits: a count, a number on chain, a time in whole seconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """To the database."""
        return None if value is None else _whole(value)


class Word(TypeDecorator[str]):
    """A short text of our own making: a hash, an address, a state."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else _word(value)


class PeerText(TypeDecorator[str]):
    """Text that a peer, a chain or its node may have chosen: any characters at all.

    PostgreSQL keeps no U+0000, and no database half of a surrogate pair: a reason that has one must
    not stop the transaction that notes it. Each is replaced by U+FFFD.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        if value is None or (_word(value).isascii() and "\0" not in value):
            return value
        return "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in value)
