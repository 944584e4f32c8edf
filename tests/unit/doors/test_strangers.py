"""What strangers may cost at /v1/ws, on a clock of our own."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from fabstir.doors.strangers import StrangerLimits, Strangers
from fabstir.primitives.errors import ChainError, SessionRefused
from fabstir.primitives.ids import JobId

pytestmark = pytest.mark.anyio

LIMITS = StrangerLimits(
    inits_per_second=1.0,
    init_burst=3,
    all_inits_per_second=5.0,
    all_init_burst=20,
    session_inits_per_second=2.0,
    session_init_burst=8,
    inits_at_once=10,
    refusals_per_second=1.0,
    refusal_burst=2,
    own_refusals_per_second=0.5,
    own_refusal_burst=2,
    num_addresses=10,
)
JOB = JobId(7)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail_with(error: Exception | None) -> None:
    if error is not None:
        raise error


async def shake_hands(
    strangers: Strangers, address: str, job_id: JobId = JOB, error: Exception | None = None
) -> str:
    """The code of a handshake that, if it may be tried, ends with `error`."""
    try:
        async with strangers.caller(address).handshake(job_id):
            fail_with(error)
    except SessionRefused as refused:
        return refused.code
    except ChainError:
        return "CHAIN_UNAVAILABLE"
    return "opened"


async def fail(strangers: Strangers, address: str, code: str = "SESSION_NOT_FOUND") -> str:
    return await shake_hands(strangers, address, error=SessionRefused(code, "no"))


async def test_failing_handshakes_of_an_address_are_rationed() -> None:
    clock, refused = Clock(), list[str]()
    strangers = Strangers(LIMITS, on_refused=refused.append, clock=clock)

    codes = [await fail(strangers, "10.0.0.1") for _ in range(5)]

    assert codes == ["SESSION_NOT_FOUND"] * 3 + ["RATE_LIMITED"] * 2
    assert refused == ["init", "init"]
    assert await fail(strangers, "10.0.0.2") == "SESSION_NOT_FOUND"
    clock.now += 1.0
    assert await fail(strangers, "10.0.0.1") == "SESSION_NOT_FOUND"


async def test_handshakes_that_succeed_are_rationed_by_session_and_address() -> None:
    clock = Clock()
    strangers = Strangers(LIMITS, clock=clock)

    async def open_many(address: str, job_id: int, number: int) -> int:
        codes = [await shake_hands(strangers, address, JobId(job_id)) for _ in range(number)]
        assert set(codes) <= {"opened", "RATE_LIMITED"}
        return codes.count("opened")

    assert await open_many("10.0.0.1", 7, 12) == LIMITS.session_init_burst
    assert await open_many("10.0.0.2", 7, 8) == LIMITS.session_init_burst  # its renter's own
    clock.now += 1.0
    assert await open_many("10.0.0.1", 7, 3) == LIMITS.session_inits_per_second
    clock.now += 100.0
    assert sum([await open_many("10.0.0.1", job_id, 5) for job_id in range(6)]) == 20


def test_default_handshakes_let_existing_clients_be() -> None:
    """They send one before every prompt and before what they look up for it."""
    limits = StrangerLimits()

    assert (limits.all_inits_per_second, limits.all_init_burst) >= (5.0, 120)
    assert (limits.session_inits_per_second, limits.session_init_burst) >= (2.0, 60)


async def test_a_neighbours_failures_keep_no_connection_with_a_session_from_its_next_one() -> None:
    strangers = Strangers(LIMITS, clock=Clock())
    ours = strangers.caller("192.0.2.1")
    async with ours.handshake(JOB):
        pass
    for _ in range(LIMITS.init_burst):
        await fail(strangers, "192.0.2.1")

    async with ours.handshake(JOB):
        pass

    assert await fail(strangers, "192.0.2.1") == "RATE_LIMITED"


async def test_what_the_host_fails_at_counts_for_nobody() -> None:
    strangers = Strangers(LIMITS, clock=Clock())

    for error in (
        ChainError("the chain is down"),
        SessionRefused("DRAINING", "this host is shutting down"),
        SessionRefused("RATE_LIMITED", "too many sessions are being opened here"),
    ):
        for job_id in range(5):
            await shake_hands(strangers, "10.0.0.1", JobId(job_id), error)

    assert await fail(strangers, "10.0.0.1") == "SESSION_NOT_FOUND"


async def test_handshakes_at_once_have_a_bound_of_their_own() -> None:
    clock = Clock()
    strangers = Strangers(LIMITS, clock=clock)

    async with AsyncExitStack() as under_way:
        for job_id in range(LIMITS.inits_at_once):
            caller = strangers.caller("10.0.0.1")
            await under_way.enter_async_context(caller.handshake(JobId(job_id)))

        assert await shake_hands(strangers, "10.0.0.1") == "RATE_LIMITED"
        assert await shake_hands(strangers, "10.0.0.2") == "opened"
    assert await shake_hands(strangers, "10.0.0.1") == "opened"


async def test_failures_at_once_are_made_up_for() -> None:
    clock = Clock()
    strangers = Strangers(LIMITS, clock=clock)

    async def fail_together(left: int) -> None:
        with pytest.raises(SessionRefused):
            async with strangers.caller("10.0.0.1").handshake(JobId(left)):
                if left:
                    await fail_together(left - 1)
                fail_with(SessionRefused("SESSION_NOT_FOUND", "no"))

    await fail_together(5)  # six, twice what is allowed

    clock.now += 3.0
    assert await fail(strangers, "10.0.0.1") == "RATE_LIMITED"
    clock.now += 1.0
    assert await fail(strangers, "10.0.0.1") == "SESSION_NOT_FOUND"


async def test_a_household_of_ipv6_is_one_address() -> None:
    strangers = Strangers(LIMITS, clock=Clock())

    codes = [await fail(strangers, f"2001:db8::{number}") for number in range(4)]

    assert codes[-1] == "RATE_LIMITED"


async def test_who_is_refused_too_often_is_let_go() -> None:
    clock = Clock()
    strangers = Strangers(LIMITS, clock=clock)
    caller = strangers.caller("10.0.0.1")

    assert [caller.may_be_refused_again() for _ in range(3)] == [True, True, False]
    assert strangers.caller("10.0.0.2").may_be_refused_again()
    clock.now += 1.0
    assert caller.may_be_refused_again()


async def test_a_neighbour_closes_no_connection_with_a_session() -> None:
    strangers = Strangers(LIMITS, clock=Clock())
    renter, neighbour = strangers.caller("10.0.0.1"), strangers.caller("10.0.0.1")
    async with renter.handshake(JOB):
        pass

    assert [neighbour.may_be_refused_again() for _ in range(3)] == [True, True, False]

    assert [renter.may_be_refused_again() for _ in range(3)] == [True, True, False]
