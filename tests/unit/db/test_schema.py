"""What a column takes: a row of another type could be written, and never be read again."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.exc import StatementError
from tests.unit.sdk.renting import ROW

from fabstir.db.renter import insert_session, renter_sessions, update_session
from fabstir.db.schema import metadata


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deposit", 1e15),
        ("deposit", True),
        ("deposit", "5"),
        ("price_per_token", 0.5),
        ("proof_window", 60.0),
        ("proof_interval", "many"),
        ("model_digest", 7),
        ("host", b"host"),
        ("model_name", 3.5),
    ],
)
def test_a_value_of_another_type_is_refused_and_nothing_is_written(
    name: str, value: object
) -> None:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)

    with (
        pytest.raises(StatementError, match="nothing is written"),
        engine.begin() as connection,
    ):
        insert_session(connection, dataclasses.replace(ROW, **{name: value}))  # pyright: ignore[reportArgumentType] - the wrong type is what is tested

    with engine.begin() as connection:
        assert connection.execute(select(renter_sessions)).all() == []
        insert_session(connection, ROW)
        with pytest.raises(StatementError, match="nothing is written"):
            update_session(connection, ROW.id, **{name: value})
        assert len(connection.execute(select(renter_sessions)).all()) == 1
    engine.dispose()
