"""A session that goes from socket to socket: who has none any more is told so."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import anyio
import pytest
from anyio.abc import TaskGroup
from tests.idle_models import idle_model
from tests.integration.market.test_ledger import CHAIN, CONTRACT, DEPOSITOR, DOMAIN, JOB, ROW

from fabstir.api.errors import error_message
from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.jobs.answer import AnswerServices
from fabstir.jobs.book import SessionBook
from fabstir.jobs.connection import ClientConnection
from fabstir.jobs.gate import Admission, Gate
from fabstir.jobs.session import Closing, LiveSession
from fabstir.market.ledger import HostLedger
from fabstir.primitives.ids import Address
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.envelope import InitEnvelope, SealedPayload
from fabstir.protocol.payloads import InitPlaintext

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

INIT = EncryptedSessionInit(
    session_id=str(JOB),
    job_id=JOB,
    chain_id=CHAIN,
    payload=InitEnvelope(
        ephemeral_public_key=bytes(33),
        salt=bytes(16),
        sealed=SealedPayload(ciphertext=bytes(16), nonce=bytes(24), aad=b""),
        info=b"",
        signature=bytes(65),
    ),
)


class OpenGate(SessionBook):
    """Lets everybody in: what the gate asks the chain is not looked at here."""

    async def _admit(self, message: EncryptedSessionInit) -> Admission:
        row = await self._ledger.bind_renter(JOB, DEPOSITOR, is_proven=True, recovery=None)
        assert row is not None
        init = InitPlaintext(job_id=message.job_id, model_name="any", session_key=bytes(32))
        return Admission(row=row, model=idle_model(row.model_id), init=init, signer=DEPOSITOR)


async def _close(session: LiveSession) -> Closing:
    raise AssertionError(f"nobody closes {session.session_id} here")


class Sockets:
    """Connections to one host; `vacant` has who was told, in order."""

    def __init__(self, ledger: HostLedger, tasks: TaskGroup) -> None:
        gate = cast("Gate", None)
        self.book = OpenGate(gate, ledger, bytes)
        self.vacant: list[str] = []
        self._tasks = tasks
        self._services = AnswerServices(
            ledger=ledger,
            domain=DOMAIN,
            crypto=NATIVE,
            wallet_secret=bytes(32),
            acknowledgement_timeout=1.0,
            max_unproven=lambda _session: 100,
            claim_soon=lambda _session: None,
            random=bytes,
            observe_first_token=lambda _model, _seconds: None,
            observe_tokens=lambda _model, _num: None,
        )

    def open(self, name: str) -> ClientConnection:
        connection = ClientConnection(
            services=self._services,
            book=self.book,
            host=Address("0x" + "44" * 20),
            close_session=_close,
            describe_error=error_message,
            tasks=self._tasks,
        )
        connection.on_vacant = lambda: self.vacant.append(name)
        return connection


@pytest.fixture
async def sockets(tmp_path: Path) -> AsyncGenerator[Sockets]:
    async with (
        open_database(f"sqlite:///{tmp_path}/journal.db") as db,
        anyio.create_task_group() as tasks,
    ):
        ledger = HostLedger(db, CHAIN, CONTRACT)
        await ledger.remember(ROW)
        yield Sockets(ledger, tasks)


async def test_one_session_has_one_seat(sockets: Sockets) -> None:
    first, second = sockets.open("first"), sockets.open("second")
    assert not first.has_seats

    await first.handle(INIT)
    await first.handle(INIT)
    assert (first.has_seats, sockets.vacant) == (True, [])
    await second.handle(INIT)
    assert (first.has_seats, second.has_seats) == (False, True)
    await first.handle(INIT)

    assert (first.has_seats, second.has_seats) == (True, False)
    assert sockets.vacant == ["first", "second"]


async def test_a_session_that_is_over_is_no_seat(sockets: Sockets) -> None:
    only = sockets.open("only")
    await only.handle(INIT)

    sockets.book.forget(JOB)

    assert (only.has_seats, sockets.vacant) == (False, ["only"])


async def test_who_has_left_is_told_nothing(sockets: Sockets) -> None:
    gone = sockets.open("gone")
    await gone.handle(INIT)
    gone.release()

    sockets.book.forget(JOB)

    assert sockets.vacant == []
