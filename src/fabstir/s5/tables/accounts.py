"""The accounts of this node's portal, and the tokens that open them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    delete,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError

from fabstir.s5.tables.schema import s5_metadata

accounts = Table(
    "accounts",
    s5_metadata,
    Column("id", Integer, primary_key=True),
    Column("public_key", LargeBinary(32), nullable=False, unique=True),
    Column("label", String(128), nullable=False),
    Column("eth_address", String(42), unique=True),
    Column("created_at", BigInteger, nullable=False),
)

account_tokens = Table(
    "account_tokens",
    s5_metadata,
    Column("token_hash", LargeBinary(32), primary_key=True),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("label", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

MAX_TOKENS = 64
"""Tokens that one account may have; the oldest gives way. Each device logs in for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    """One account.

    Attributes:
        public_key: 32 bytes of ed25519.
        eth_address: of the host whose wallet vouched for it, or None.
        created_at: Unix time in milliseconds.
    """

    id: int
    public_key: bytes
    label: str
    eth_address: str | None
    created_at: int


def _account(row: Row[*tuple[Any, ...]]) -> AccountRow:
    return AccountRow(
        id=row.id,
        public_key=row.public_key,
        label=row.label,
        eth_address=row.eth_address,
        created_at=row.created_at,
    )


def find_or_insert_account(
    connection: Connection, public_key: bytes, *, label: str, eth_address: str | None, now: int
) -> AccountRow | None:
    """The account of a key, made if it has none; None: the address has one, of another key."""
    if (account := find_account(connection, public_key)) is not None:
        return account
    values = {
        "public_key": public_key,
        "label": label,
        "eth_address": eth_address,
        "created_at": now,
    }
    try:
        with connection.begin_nested():
            row = connection.execute(insert(accounts).values(values).returning(*accounts.c)).one()
    except IntegrityError:
        return None
    return _account(row)


def find_account(connection: Connection, public_key: bytes) -> AccountRow | None:
    """The account of a key."""
    row = connection.execute(select(accounts).where(accounts.c.public_key == public_key)).first()
    return None if row is None else _account(row)


def list_accounts(connection: Connection) -> list[AccountRow]:
    """All of them, oldest first."""
    rows = connection.execute(select(accounts).order_by(accounts.c.id))
    return [_account(row) for row in rows]


def insert_token(
    connection: Connection, account_id: int, token_hash: bytes, *, label: str, now: int
) -> None:
    """Let a token open an account; beyond MAX_TOKENS the oldest is dropped."""
    mine = account_tokens.c.account_id == account_id
    kept = (
        select(account_tokens.c.token_hash)
        .where(mine)
        .order_by(account_tokens.c.created_at.desc(), account_tokens.c.token_hash)
        .limit(MAX_TOKENS - 1)
    )
    connection.execute(delete(account_tokens).where(mine, account_tokens.c.token_hash.not_in(kept)))
    connection.execute(
        insert(account_tokens).values(
            token_hash=token_hash, account_id=account_id, label=label, created_at=now
        )
    )


def find_account_by_token(connection: Connection, token_hash: bytes) -> AccountRow | None:
    """Whose token this is."""
    row = connection.execute(
        select(accounts)
        .join(account_tokens, account_tokens.c.account_id == accounts.c.id)
        .where(account_tokens.c.token_hash == token_hash)
    ).first()
    return None if row is None else _account(row)


def delete_token(connection: Connection, token_hash: bytes) -> bool:
    """Revoke a token; False: there is none."""
    gone = connection.execute(
        delete(account_tokens).where(account_tokens.c.token_hash == token_hash)
    )
    return gone.rowcount > 0
