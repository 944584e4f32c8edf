"""The tables of phases are whole, and are what the documents show."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabstir.primitives.errors import LocalProtocolError, SessionRefused
from fabstir.protocol.codes import ERROR_CODES
from fabstir.protocol.exchange.phases import (
    HOST_TABLE,
    RENTER_TABLE,
    HostPhase,
    HostStep,
    RenterPhase,
    RenterStep,
    draw,
    host_after,
    renter_after,
)

DOCUMENT = Path(__file__).parents[4] / "docs" / "protocol.md"


@pytest.mark.parametrize("phase", HostPhase)
@pytest.mark.parametrize("step", HostStep)
def test_every_step_of_a_host_leads_somewhere_or_is_refused_by_a_code(
    phase: HostPhase, step: HostStep
) -> None:
    after = HOST_TABLE[phase].get(step)
    if after is not None:
        assert host_after(phase, step, "7") is after
        return
    with pytest.raises(SessionRefused, match="session 7") as refused:
        host_after(phase, step, "7")
    assert refused.value.code in ERROR_CODES


def test_nothing_leads_back_from_what_is_over() -> None:
    for step in HostStep:
        assert HOST_TABLE[HostPhase.OVER].get(step, HostPhase.OVER) is HostPhase.OVER
        assert HOST_TABLE[HostPhase.CLOSING].get(step) in {None, HostPhase.CLOSING, HostPhase.OVER}


def test_what_a_renter_may_not_do_is_its_own_fault() -> None:
    for phase in RenterPhase:
        for step in RenterStep:
            if step not in RENTER_TABLE[phase]:
                with pytest.raises(LocalProtocolError, match=phase):
                    renter_after(phase, step)


def test_the_documents_show_the_tables() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    assert "\n".join(draw(HOST_TABLE, HostStep)) in text
    assert "\n".join(draw(RENTER_TABLE, RenterStep)) in text
