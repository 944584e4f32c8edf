"""Both ends of a session driven against each other, over a line that may do anything to frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.unit.protocol.exchange.answering import REQUEST
from tests.unit.protocol.exchange.meeting import (
    DEPOSIT,
    PRICE,
    Host,
    Renter,
    make_account,
    on_wire,
)

from fabstir.primitives.errors import (
    EngineCrashed,
    ReceiptMismatch,
    RemoteProtocolError,
    SessionRefused,
)
from fabstir.primitives.units import tokens_for
from fabstir.protocol.exchange.account import MAX_LOST_TOKENS
from fabstir.protocol.exchange.phases import HostPhase, RenterPhase
from fabstir.protocol.exchange.renter import (
    AnswerOver,
    Closed,
    EndReceived,
    HostRefused,
    Opened,
    PieceReceived,
    ReceiptReceived,
)
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS

SEALED = json.dumps({"ciphertextHex": "00", "nonceHex": "00" * 24})
HOSTILE = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=40),
    st.sampled_from(
        [
            '{"type":"ping"}',
            '{"type":"pong"}',
            '{"type":"stream_cancel","session_id":"9"}',
            '{"type":"stream_cancel","session_id":"10"}',
            '{"type":"stream_end","session_id":"9","id":"1","reason":"complete"}',
            '{"type":"prompt","prompt":"in clear","session_id":"9"}',
            '{"type":"error","code":"SESSION_NOT_ACTIVE","message":"gone","session_id":"9"}',
            '{"type":"session_closed","session_id":"9","payload":{"ciphertextHex":"00"}}',
            f'{{"type":"encrypted_ack","session_id":"9","payload":{SEALED}}}',
            f'{{"type":"encrypted_message","session_id":"9","payload":{SEALED}}}',
        ]
    ),
)


class Line(RuleBasedStateMachine):
    """Two ends, and a line between them that delivers, drops, repeats, swaps and invents."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host(make_account())
        self.renter = Renter()
        self.to_host: list[str | bytes] = []
        self.to_renter: list[str | bytes] = []
        self.is_clean = True
        """Nobody touched this connection's frames."""

    @initialize()
    def begin(self) -> None:
        self.to_host += on_wire(self.renter.connect())

    # -- what the ends do ---------------------------------------------------------------------

    @rule()
    def reconnect(self) -> None:
        self.host.connect()
        self.to_host.clear()
        self.to_renter.clear()
        self.is_clean = True
        self.to_host += on_wire(self.renter.connect())

    @precondition(lambda self: self.renter.exchange.phase is RenterPhase.IDLE)
    @rule()
    def ask(self) -> None:
        self.to_host += on_wire(self.renter.ask())

    @precondition(
        lambda self: self.renter.exchange.phase in {RenterPhase.ANSWERED, RenterPhase.ENDING}
    )
    @rule()
    def cancel(self) -> None:
        self.to_host += on_wire([self.renter.exchange.cancel()])

    @precondition(lambda self: self.renter.exchange.phase is RenterPhase.IDLE)
    @rule()
    def close(self) -> None:
        self.to_host += on_wire([self.renter.exchange.close()])

    @rule(num_tokens=st.integers(1, RECEIPT_INTERVAL_TOKENS))
    def piece(self, num_tokens: int) -> None:
        self.to_renter += on_wire(self.host.piece(num_tokens))

    @rule(reason=st.sampled_from(["stop", "length", "draining"]))
    def end(self, reason: str) -> None:
        self.to_renter += on_wire(self.host.end(reason))

    @rule()
    def crash(self) -> None:
        self.to_renter += on_wire(self.host.fail(EngineCrashed("it died")))

    # -- what the line does -------------------------------------------------------------------

    @rule(times=st.integers(1, 8))
    def deliver(self, times: int) -> None:
        for _ in range(times):
            if self.to_host:
                self.to_renter += on_wire(self.host.hear(self.to_host.pop(0)))
            if self.to_renter:
                self._hear(self.to_renter.pop(0))

    @rule(to_host=st.booleans(), data=st.data())
    def drop(self, to_host: bool, data: st.DataObject) -> None:
        self._tamper(to_host, data, lambda line, at: line.pop(at))

    @rule(to_host=st.booleans(), data=st.data())
    def repeat(self, to_host: bool, data: st.DataObject) -> None:
        self._tamper(to_host, data, lambda line, at: line.append(line[at]))

    @rule(to_host=st.booleans(), data=st.data())
    def swap(self, to_host: bool, data: st.DataObject) -> None:
        self._tamper(to_host, data, lambda line, at: line.append(line.pop(at)))

    @rule(to_host=st.booleans(), frame=HOSTILE)
    def invent(self, to_host: bool, frame: str | bytes) -> None:
        self.is_clean = False
        (self.to_host if to_host else self.to_renter).insert(0, frame)

    def _tamper(
        self, to_host: bool, data: st.DataObject, do: Callable[[list[str | bytes], int], object]
    ) -> None:
        line = self.to_host if to_host else self.to_renter
        if line:
            self.is_clean = False
            do(line, data.draw(st.integers(0, len(line) - 1)))

    def _hear(self, frame: str | bytes) -> None:
        if self.renter.exchange.phase is RenterPhase.FAILED:
            return  # the SDK has left
        with nullcontext() if self.is_clean else suppress(RemoteProtocolError, ReceiptMismatch):
            self.to_host += on_wire(self.renter.hear(frame))

    # -- what must hold -----------------------------------------------------------------------

    @invariant()
    def nothing_is_delivered_that_nobody_may_owe(self) -> None:
        account = self.host.account
        assert 0 <= account.agreed <= account.delivered
        assert account.unacknowledged <= MAX_UNACKNOWLEDGED_TOKENS
        assert account.delivered <= tokens_for(DEPOSIT, PRICE)
        assert account.lost >= 0

    @invariant()
    def the_host_claims_what_the_renter_signed_and_no_more(self) -> None:
        signed = self.renter.last.acknowledgement.cumulative_tokens if self.renter.last else 0
        assert self.host.account.agreed <= signed
        assert self.renter.head.cumulative_tokens == signed

    @invariant()
    def no_receipt_is_due_that_was_not_sent(self) -> None:
        for receipt in self.host.account.pending.values():
            assert receipt.sequence <= self.host.account.issued.sequence


Line.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLine = Line.TestCase


def shaken() -> tuple[Host, Renter]:
    host, renter = Host(make_account()), Renter()
    carry(host, renter, on_wire(renter.connect()))
    return host, renter


def carry(
    host: Host, renter: Renter, to_host: list[str], to_renter: list[str] | None = None
) -> None:
    """Deliver everything, in order, until both lines are empty."""
    to_renter = to_renter or []
    while to_host or to_renter:
        if to_host:
            to_renter += on_wire(host.hear(to_host.pop(0)))
        else:
            to_host += on_wire(renter.hear(to_renter.pop(0)))


def test_a_session_from_its_handshake_to_its_close() -> None:
    host, renter = shaken()
    carry(host, renter, on_wire(renter.ask()))
    for _ in range(3):
        carry(host, renter, [], on_wire(host.piece(40)))
    carry(host, renter, [], on_wire(host.end("stop")))
    carry(host, renter, on_wire(renter.ask()))
    carry(host, renter, [], on_wire(host.piece(1)))
    carry(host, renter, on_wire([renter.exchange.cancel()]))
    carry(host, renter, on_wire([renter.exchange.close()]))

    kinds = [type(event) for event in renter.events]
    assert kinds == [
        Opened,
        *[PieceReceived, PieceReceived, ReceiptReceived, PieceReceived, ReceiptReceived],
        *[EndReceived, AnswerOver],
        *[PieceReceived, ReceiptReceived, EndReceived, AnswerOver],
        Closed,
    ]
    assert (host.account.agreed, host.account.phase) == (121, HostPhase.CLOSING)
    assert renter.head.cumulative_tokens == 121
    assert host.refused == []


def test_the_window_stops_delivery_and_an_acknowledgement_opens_it() -> None:
    host, renter = shaken()
    carry(host, renter, on_wire(renter.ask()))
    frames = on_wire(host.piece(64)) + on_wire(host.piece(64))

    assert host.piece(1) == []
    carry(host, renter, [], frames)
    assert host.account.unacknowledged == 0
    assert host.piece(1) != []


def test_a_lost_acknowledgement_is_written_off_and_forgiven_for_a_while() -> None:
    host, renter = shaken()
    num_connections = 0
    while host.account.is_forgiven:
        carry(host, renter, on_wire(renter.ask()))
        while frames := host.piece(64):
            assert frames  # sent, and never heard
        host.connect()
        carry(host, renter, on_wire(renter.connect()))
        num_connections += 1

    carry(host, renter, on_wire(renter.ask()))
    assert num_connections == MAX_LOST_TOKENS // MAX_UNACKNOWLEDGED_TOKENS + 1
    assert [refused.code for refused in host.refused if isinstance(refused, SessionRefused)] == [
        "UNACKNOWLEDGED"
    ]
    assert isinstance(renter.events[-1], HostRefused)


@pytest.mark.parametrize("again", [1, 2])
def test_a_second_request_is_busy_and_ends_nothing(again: int) -> None:
    host, renter = shaken()
    carry(host, renter, on_wire(renter.ask()))
    for _ in range(again):
        second = renter.exchange._seal  # pyright: ignore[reportPrivateUsage]
        frame = json.dumps(
            {
                "type": "encrypted_message",
                "session_id": "9",
                "id": "1",
                "payload": second("encrypted_message", REQUEST.encode()).to_json(),
            }
        )
        (answer,) = host.hear(frame)
        assert answer.to_json()["code"] == "BUSY"

    assert host.account.phase is HostPhase.ANSWERING
    carry(host, renter, [], on_wire(host.piece(3)) + on_wire(host.end("stop")))
    assert isinstance(renter.events[-1], AnswerOver)


def test_nobody_uses_a_session_of_another_connection() -> None:
    host, renter = shaken()
    taken = on_wire(renter.ask())
    former = host.exchange
    host.connect()
    carry(host, renter, on_wire(renter.connect()))

    event = former.receive(taken[0])

    assert "NOT_AUTHENTICATED" in str(getattr(event, "frames", [])[0].to_json())
