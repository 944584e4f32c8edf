"""What a database's URL says, and what it may not say."""

from __future__ import annotations

import pytest

from fabstir.db._postgresql_target import Target
from fabstir.primitives.errors import ConfigError


def test_a_url_names_a_schema_of_a_database() -> None:
    target = Target.parse("postgresql://me@127.0.0.1:5433/market?schema=fabstir_host")

    assert target.dsn == "postgresql://me@127.0.0.1:5433/market"
    assert target.schema == "fabstir_host"
    assert target.place == "postgresql://me@127.0.0.1:5433/market (schema fabstir_host)"


@pytest.mark.parametrize(
    ("url", "is_encrypted"),
    [
        ("postgresql://me@db.example/x", True),
        ("postgresql://me@192.0.2.1,127.0.0.1/x", True),
        ("postgresql://me@/x?host=db.example", True),
        ("postgresql://me@db.example/x?sslmode=disable", False),
        ("postgresql://me@localhost:5432/x", False),
        ("postgresql://me@[::1]/x", False),
        ("postgresql://me@/x?host=/run/postgresql", False),
        ("postgresql:///x", False),
    ],
)
def test_nobody_on_the_way_reads_along(url: str, is_encrypted: bool) -> None:
    assert ("sslmode=require" in Target.parse(url).dsn) == is_encrypted


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:s3cret@h/x", "has a password in it"),
        ("postgresql://me@h/x?password=s3cret", "the option password"),
        ("mysql+driver://me@h/x", "the scheme 'mysql.driver'"),
        ("postgresql://me@h/x?schema=A-b", "lower-case letters"),
        ("postgresql://me@h/x?statement_timeout=1", "the option statement_timeout"),
        ("postgresql://[h/x", "cannot be read"),
        ("postgresql://me@h/x?schema", "cannot be read"),
    ],
)
def test_a_wrong_url_is_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Target.parse(url)

    assert "s3cret" not in str(caught.value)
