"""Both ends of a session as tables: in which phase which step is legal, and where it leads.

`HostAccount` and `RenterExchange` move by these tables and by nothing else. docs/protocol.md shows
them as `draw` writes them; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from fabstir.primitives.errors import LocalProtocolError, SessionRefused


class HostPhase(StrEnum):
    """Where a session stands at its host."""

    AWAY = "away"
    """No connection has it: its renter may come back."""
    IDLE = "idle"
    ANSWERING = "answering"
    CLOSING = "closing"
    """Nothing more is answered: it is proven and settled."""
    OVER = "over"
    """Settled on chain, or its number is another session's."""


class HostStep(StrEnum):
    """What happens to a session at its host."""

    ADMITTED = "admitted"
    REQUEST = "request"
    ENDED = "ended"
    ACKNOWLEDGEMENT = "acknowledgement"
    CANCEL = "cancel"
    CLOSE = "close"
    RELEASED = "released"
    SETTLED = "settled"


class RenterPhase(StrEnum):
    """Where a connection stands at its renter."""

    NEW = "new"
    GREETING = "greeting"
    """The init is sent, its acknowledgement is not here."""
    IDLE = "idle"
    ANSWERED = "answered"
    """A request is out: pieces and receipts come."""
    ENDING = "ending"
    """The sealed end of an answer is here, `stream_end` is not."""
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"
    """The host broke the protocol, or said that it failed: open another connection."""


class RenterStep(StrEnum):
    """What a renter does, and what it hears."""

    GREET = "greet"
    OPENED = "opened"
    ASK = "ask"
    PIECE = "piece"
    RECEIPT = "receipt"
    END = "end"
    STREAM_END = "stream_end"
    CANCEL = "cancel"
    CLOSE = "close"
    CLOSED = "closed"
    ERROR = "error"


_H, _S = HostPhase, HostStep

HOST_TABLE: Final[Mapping[HostPhase, Mapping[HostStep, HostPhase]]] = {
    _H.AWAY: {
        _S.ADMITTED: _H.IDLE,
        _S.ENDED: _H.AWAY,
        _S.RELEASED: _H.AWAY,
        _S.CLOSE: _H.CLOSING,
        _S.SETTLED: _H.OVER,
    },
    _H.IDLE: {
        _S.ADMITTED: _H.IDLE,
        _S.REQUEST: _H.ANSWERING,
        _S.ENDED: _H.IDLE,
        _S.ACKNOWLEDGEMENT: _H.IDLE,
        _S.CANCEL: _H.IDLE,
        _S.CLOSE: _H.CLOSING,
        _S.RELEASED: _H.AWAY,
        _S.SETTLED: _H.OVER,
    },
    _H.ANSWERING: {
        _S.ADMITTED: _H.IDLE,
        _S.ENDED: _H.IDLE,
        _S.ACKNOWLEDGEMENT: _H.ANSWERING,
        _S.CANCEL: _H.ANSWERING,
        _S.CLOSE: _H.CLOSING,
        _S.RELEASED: _H.AWAY,
        _S.SETTLED: _H.OVER,
    },
    _H.CLOSING: {
        _S.ENDED: _H.CLOSING,
        _S.ACKNOWLEDGEMENT: _H.CLOSING,
        _S.CANCEL: _H.CLOSING,
        _S.CLOSE: _H.CLOSING,
        _S.RELEASED: _H.CLOSING,
        _S.SETTLED: _H.OVER,
    },
    _H.OVER: {
        _S.ENDED: _H.OVER,
        _S.ACKNOWLEDGEMENT: _H.OVER,
        _S.CANCEL: _H.OVER,
        _S.CLOSE: _H.OVER,
        _S.RELEASED: _H.OVER,
        _S.SETTLED: _H.OVER,
    },
}
"""What is not here is refused. ADMITTED from ANSWERING: the answer of the connection before had its
time to stop, and what it sent after it is written off."""

_R, _T = RenterPhase, RenterStep

RENTER_TABLE: Final[Mapping[RenterPhase, Mapping[RenterStep, RenterPhase]]] = {
    _R.NEW: {_T.GREET: _R.GREETING},
    _R.GREETING: {_T.OPENED: _R.IDLE, _T.ERROR: _R.FAILED},
    _R.IDLE: {
        _T.ASK: _R.ANSWERED,
        _T.CLOSE: _R.CLOSING,
        _T.ERROR: _R.FAILED,
    },
    _R.ANSWERED: {
        _T.PIECE: _R.ANSWERED,
        _T.RECEIPT: _R.ANSWERED,
        _T.END: _R.ENDING,
        _T.CANCEL: _R.ANSWERED,
        _T.ERROR: _R.FAILED,
    },
    _R.ENDING: {
        _T.STREAM_END: _R.IDLE,
        _T.CANCEL: _R.ENDING,
        _T.ERROR: _R.FAILED,
    },
    _R.CLOSING: {_T.CLOSED: _R.CLOSED, _T.ERROR: _R.FAILED},
    _R.CLOSED: {},
    _R.FAILED: {},
}
"""A frame that is not legal here is a breach by the host; a call that is not, by the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    code: str
    text: str

    def of(self, session_id: str) -> SessionRefused:
        return SessionRefused(self.code, self.text.format(session_id))


_BUSY: Final = _Refusal(code="BUSY", text="session {} is answering: wait for stream_end or cancel")
_IS_OVER: Final = _Refusal(
    code="SESSION_NOT_ACTIVE", text="session {} is being settled, or is settled: open another"
)
_NOT_HERE: Final = _Refusal(
    code="NOT_AUTHENTICATED",
    text="session {} is not open on this connection: send encrypted_session_init first",
)

_REFUSALS: Final[Mapping[tuple[HostPhase, HostStep], _Refusal]] = {
    (_H.ANSWERING, _S.REQUEST): _BUSY,
    (_H.CLOSING, _S.REQUEST): _IS_OVER,
    (_H.CLOSING, _S.ADMITTED): _IS_OVER,
    (_H.OVER, _S.REQUEST): _IS_OVER,
    (_H.OVER, _S.ADMITTED): _IS_OVER,
    (_H.AWAY, _S.REQUEST): _NOT_HERE,
    (_H.AWAY, _S.ACKNOWLEDGEMENT): _NOT_HERE,
    (_H.AWAY, _S.CANCEL): _NOT_HERE,
}


def host_after(phase: HostPhase, step: HostStep, session_id: str) -> HostPhase:
    """The phase that `step` leads to.

    Raises:
        SessionRefused: it is not legal; the code and the text say what to do instead.
    """
    after = HOST_TABLE[phase].get(step)
    if after is None:
        raise _REFUSALS[phase, step].of(session_id)
    return after


def not_here(session_id: str) -> SessionRefused:
    """What a client is told whose frame is for a session that its connection does not have."""
    return _NOT_HERE.of(session_id)


def renter_after(phase: RenterPhase, step: RenterStep) -> RenterPhase:
    """The phase that a step of ours leads to.

    Raises:
        LocalProtocolError: it is not legal: a bug of the caller.
    """
    after = RENTER_TABLE[phase].get(step)
    if after is None:
        raise LocalProtocolError(f"{step} is not legal while the connection is {phase}")
    return after


_Phase = TypeVar("_Phase", bound=StrEnum)
_Step = TypeVar("_Step", bound=StrEnum)


def draw(table: Mapping[_Phase, Mapping[_Step, _Phase]], steps: type[_Step]) -> list[str]:
    """A table's rows in Markdown: a phase a row, a step a column, a dash for what is refused."""
    head = "| | " + " | ".join(steps) + " |"
    rule = "|" + " --- |" * (len(steps) + 1)
    rows = [
        f"| `{phase}` | " + " | ".join(legal.get(step, "-") for step in steps) + " |"
        for phase, legal in table.items()
    ]
    return [head, rule, *rows]
