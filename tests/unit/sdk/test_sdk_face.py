"""What an app sees of the SDK."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest
from tests.unit.sdk.test_sdk_situation import SESSION

import fabstir.sdk
from fabstir.db.renter import RenterSession
from fabstir.primitives import errors
from fabstir.primitives.units import TokenCount
from fabstir.sdk import (
    NATIVE_COIN,
    AnswerStream,
    AsyncAnswerStream,
    AsyncClient,
    AsyncSession,
    Client,
    SamplingParams,
    Session,
    SessionInfo,
)

SECRETS = {"session_secret", "recovery_secret"}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_all_that_is_visible_is_public_and_the_other_way_round() -> None:
    assert dir(fabstir.sdk) == sorted(fabstir.sdk.__all__)


@pytest.mark.parametrize(
    ("waiting", "asynchronous"),
    [(Client, AsyncClient), (Session, AsyncSession), (AnswerStream, AsyncAnswerStream)],
)
def test_both_clients_have_the_same_methods(waiting: type, asynchronous: type) -> None:
    methods = {name for name in public(asynchronous) if callable(getattr(asynchronous, name))}

    assert public(asynchronous) <= public(waiting)
    for name in methods:
        ours, theirs = getattr(waiting, name), getattr(asynchronous, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert ours.__doc__ == theirs.__doc__ or name == "token"


def test_an_error_that_a_client_raises_is_one_that_an_app_can_name() -> None:
    raised = {
        name
        for name in vars(errors)
        for method in vars(AsyncClient).values()
        if name in (getattr(method, "__doc__", None) or "")
    }

    assert raised > {"InsufficientFunds", "NoHostFound"}
    assert raised <= set(fabstir.sdk.__all__)


def test_what_a_session_tells_about_itself_holds_no_secret() -> None:
    row = dataclasses.replace(SESSION, session_secret=b"s" * 32, recovery_secret=b"r" * 32)

    info = SessionInfo.of(row, TokenCount(1500))

    told = {field.name for field in dataclasses.fields(SessionInfo)}
    kept = {field.name for field in dataclasses.fields(RenterSession)}
    assert told & SECRETS == set() < kept & SECRETS
    for shown in (repr(info), str(info), repr(row), str(dataclasses.asdict(info))):
        assert "ssss" not in shown
        assert "rrrr" not in shown
        assert (b"s" * 32).hex() not in shown
    assert info.cost == 1500


def test_sampling_is_given_in_floats_and_travels_as_decimal_text() -> None:
    sampling = SamplingParams(max_tokens=64, temperature=0.2, top_p=0.9)

    assert json.loads(json.dumps(sampling.to_json())) == {
        **SamplingParams(max_tokens=64).to_json(),
        "temperature": "0.2",
        "top_p": "0.9",
    }


def test_an_amount_is_read_and_written_in_the_tokens_own_unit() -> None:
    assert NATIVE_COIN.parse("0.05") == 5 * 10**16
    assert NATIVE_COIN.format(NATIVE_COIN.parse("0.05")) == "0.05 ETH"
    with pytest.raises(ValueError, match="decimals"):
        NATIVE_COIN.parse("0.0000000000000000001")
