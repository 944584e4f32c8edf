"""Cursors: what is saved is loaded, and only the difference of the remembered blocks is written."""

from __future__ import annotations

import pytest

from fabstir.db import Database
from fabstir.db.cursors import Cursor, SeenBlock, load_cursor, save_cursor
from fabstir.primitives.ids import ChainId, Hash32

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CHAIN = ChainId(31337)


def seen(number: int, fork: str = "a") -> SeenBlock:
    return SeenBlock(number, Hash32("0x" + fork * 64))


async def test_an_unknown_cursor_is_none(db: Database) -> None:
    assert await db.read(lambda c: load_cursor(c, CHAIN, "events")) is None


@pytest.mark.parametrize(
    "second",
    [
        Cursor(3, (seen(2), seen(3))),
        Cursor(2, (seen(1), seen(2, "b"))),
        Cursor(0, ()),
    ],
)
async def test_a_saved_cursor_replaces_the_one_before(db: Database, second: Cursor) -> None:
    first = Cursor(2, (seen(1), seen(2)))
    await db.write(lambda c: save_cursor(c, CHAIN, "events", first), durable=False)
    await db.write(lambda c: save_cursor(c, CHAIN, "other", first), durable=False)

    await db.write(lambda c: save_cursor(c, CHAIN, "events", second), durable=False)

    assert await db.read(lambda c: load_cursor(c, CHAIN, "events")) == second
    assert await db.read(lambda c: load_cursor(c, CHAIN, "other")) == first
