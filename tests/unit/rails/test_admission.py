"""Whether a job may be served, as the chain has it at that moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protocol.exchange.meeting import (
    ENCRYPTION_SECRET,
    JOB,
    PARTY,
    PRICE,
    era_c_init,
    introduction,
    randomness,
)
from tests.unit.rails.hosting import DEPOSITOR, MODEL, OpenRail, open_rail, terms
from tests.unit.rails.memory_contract import MemoryContract

from fabstir.chain.contracts import SessionStatus
from fabstir.primitives.errors import ChainReplaced, RpcUnavailable, SessionRefused
from fabstir.primitives.ids import Address, JobId, ModelId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.exchange.handshake import Greeting, introduce, read_init

pytestmark = pytest.mark.anyio

OTHER = Address("0x" + "55" * 20)


def greeting() -> Greeting:
    """Of the depositor's authorized key."""
    init = introduce(PARTY, JOB, PRICE, introduction(), randomness()).init
    return read_init(init, PARTY, ENCRYPTION_SECRET)


def existing_client() -> Greeting:
    """One that shows nothing, signed by a key of its own."""
    return read_init(era_c_init(bytes([21]) * 32), PARTY, ENCRYPTION_SECRET)


def any_model(_model_id: ModelId) -> None:
    """Every model is served."""


async def refused(rail: OpenRail, said: Greeting | None = None, **options: Any) -> str:
    accept: Callable[[ModelId], object] = options.get("accept", any_model)
    with pytest.raises(SessionRefused) as why:
        await rail.rail.admit(said or greeting(), accept=accept)
    return why.value.code


async def test_the_depositors_key_is_let_in_as_proven(rail: OpenRail) -> None:
    asked: list[ModelId] = []

    funding = await rail.rail.admit(greeting(), accept=asked.append)

    assert (funding.row.depositor, funding.is_proven, asked) == (DEPOSITOR, True, [MODEL])


async def test_an_existing_client_is_let_in_and_proves_nothing(rail: OpenRail) -> None:
    funding = await rail.rail.admit(existing_client(), accept=any_model)

    assert not funding.is_proven


async def test_a_delegate_of_the_depositor_speaks_for_it(rail: OpenRail) -> None:
    job = rail.contract.sessions[JOB]
    rail.contract.sessions[JOB] = replace(job, depositor=OTHER)
    assert await refused(rail) == "NOT_DEPOSITOR"
    rail.contract.delegates.add((OTHER, DEPOSITOR))

    assert (await rail.rail.admit(greeting(), accept=any_model)).is_proven


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"host": OTHER}, "WRONG_HOST"),
        ({"status": SessionStatus.COMPLETED}, "SESSION_NOT_ACTIVE"),
        ({"status": SessionStatus.TIMED_OUT}, "SESSION_NOT_ACTIVE"),
        ({"price_per_token": PRICE - 1}, "TERMS_REFUSED"),
        ({"max_duration": 59}, "TERMS_REFUSED"),
        ({"payment_token": OTHER}, "TERMS_REFUSED"),
    ],
)
async def test_a_job_that_is_not_for_this_host_is_refused(
    rail: OpenRail, changes: dict[str, Any], code: str
) -> None:
    rail.contract.sessions[JOB] = replace(rail.contract.sessions[JOB], **changes)

    assert await refused(rail) == code


async def test_a_job_past_its_time_is_refused(rail: OpenRail) -> None:
    rail.contract.now += 86_401

    assert await refused(rail, existing_client()) == "SESSION_EXPIRED"


async def test_a_job_that_is_not_there_is_refused(rail: OpenRail) -> None:
    del rail.contract.sessions[JOB]
    assert await refused(rail) == "SESSION_NOT_FOUND"
    huge = replace(greeting().init, job_id=JobId(1 << 63))

    assert await refused(rail, replace(greeting(), init=huge)) == "SESSION_NOT_FOUND"


async def test_a_model_that_is_not_served_is_refused_before_anything_is_journalled_as_used(
    rail: OpenRail,
) -> None:
    def none(_model_id: ModelId) -> None:
        raise SessionRefused("WRONG_MODEL", "it is not served")

    assert await refused(rail, accept=none) == "WRONG_MODEL"


async def test_a_session_in_use_is_held_to_no_terms_again(
    tmp_path: Path, contract: MemoryContract
) -> None:
    async with open_rail(tmp_path, contract) as rail:
        await rail.admit()
    async with open_rail(tmp_path, contract, asked=terms(max_unproven=TokenCount(1))) as rail:
        contract.gas = Wei(10**15)

        assert (await rail.rail.admit(greeting(), accept=any_model)).is_proven


async def test_a_session_that_is_being_settled_is_opened_no_more(rail: OpenRail) -> None:
    await rail.admit()
    await rail.rail.close(await rail.row())

    assert await refused(rail) == "SESSION_NOT_ACTIVE"


async def test_a_chain_that_cannot_be_asked_admits_nobody(rail: OpenRail) -> None:
    rail.contract.is_away = True
    with pytest.raises(RpcUnavailable):
        await rail.rail.admit(greeting(), accept=any_model)
    rail.contract.is_away, rail.contract.is_another = False, True
    with pytest.raises(ChainReplaced):
        await rail.rail.admit(greeting(), accept=any_model)
