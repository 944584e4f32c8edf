"""What strangers may cost at /v1/ws, on a clock of our own."""

from __future__ import annotations

import pytest

from fabstir.api.strangers import StrangerLimits, Strangers
from fabstir.primitives.errors import SessionRefused

pytestmark = pytest.mark.anyio

LIMITS = StrangerLimits(
    inits_per_second=1.0, init_burst=3, refusals_per_second=1.0, refusal_burst=2, num_addresses=10
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refuse() -> None:
    raise SessionRefused("SESSION_NOT_FOUND", "there is no session 7")


async def fail(strangers: Strangers, address: str) -> str:
    """The code of a handshake for a session that there is not."""
    try:
        async with strangers.handshake(address):
            refuse()
    except SessionRefused as refused:
        return refused.code


async def test_failing_handshakes_of_an_address_are_rationed() -> None:
    clock, refused = Clock(), list[str]()
    strangers = Strangers(LIMITS, on_refused=refused.append, clock=clock)

    codes = [await fail(strangers, "10.0.0.1") for _ in range(5)]

    assert codes == ["SESSION_NOT_FOUND"] * 3 + ["RATE_LIMITED"] * 2
    assert refused == ["init", "init"]
    assert await fail(strangers, "10.0.0.2") == "SESSION_NOT_FOUND"
    clock.now += 1.0
    assert await fail(strangers, "10.0.0.1") == "SESSION_NOT_FOUND"


async def test_who_pays_opens_as_often_as_it_likes() -> None:
    """Existing clients send a handshake before every prompt."""
    strangers = Strangers(LIMITS, clock=Clock())

    for _ in range(100):
        async with strangers.handshake("10.0.0.1"):
            pass


async def test_a_household_of_ipv6_is_one_address() -> None:
    strangers = Strangers(LIMITS, clock=Clock())

    codes = [await fail(strangers, f"2001:db8::{number}") for number in range(4)]

    assert codes[-1] == "RATE_LIMITED"


async def test_who_is_refused_too_often_is_let_go() -> None:
    clock = Clock()
    strangers = Strangers(LIMITS, clock=clock)

    assert [strangers.may_be_refused_again("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert strangers.may_be_refused_again("10.0.0.2")
    clock.now += 1.0
    assert strangers.may_be_refused_again("10.0.0.1")
