"""A host's door over streams in memory: the real gate, book, answers and journal, and a rail that
is only the journal. What is spoken comes from an engine that reads a given text out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from tests.unit.protocol.exchange.answering import DIGEST, DOMAIN, HOST_SECRET
from tests.unit.protocol.exchange.meeting import (
    ENCRYPTION_SECRET,
    FACTS,
    HOST,
    JOB,
    NOW,
    PARTY,
    WALLET_SECRET,
    randomness,
)
from tests.unit.rails.test_next_action import row

from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.db.host_sessions import SessionRow
from fabstir.doors.errors import error_message
from fabstir.doors.session import DoorServices, SessionDoor
from fabstir.doors.strangers import Strangers
from fabstir.engines import (
    EngineInfo,
    EnginePool,
    EngineState,
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
)
from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import ContextLengthExceeded, EngineUnavailable, SessionRefused
from fabstir.primitives.ids import JobId, ModelId
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.exchange.handshake import Greeting
from fabstir.protocol.exchange.streams import Path
from fabstir.rails.rail import Closing, Funding
from fabstir.serving.answer import AnswerServices
from fabstir.serving.book import SessionBook
from fabstir.serving.gate import Gate
from fabstir.serving.models import ServedModel, ServedModels

DEPOSITOR = NATIVE.address_of(NATIVE.public_key(WALLET_SECRET))
SESSION = row(
    chain_id=DOMAIN.chain_id,
    contract=DOMAIN.contract,
    job_id=JOB,
    depositor=DEPOSITOR,
    deposit=FACTS.deposit,
    price_per_token=FACTS.price_per_token,
    signer=None,
    is_proven=False,
)


@dataclass(slots=True)
class JournalRail:
    """A way to be paid without a chain: what is agreed to is what is earned."""

    ledger: HostLedger
    max_unproven: int = 1 << 30
    sessions: dict[JobId, SessionRow] = field(default_factory=lambda: {JOB: SESSION})
    claimed: dict[JobId, int] = field(default_factory=dict[JobId, int])
    background: Mapping[str, Callable[[], Awaitable[None]]] = field(
        default_factory=dict[str, Callable[[], Awaitable[None]]]
    )

    async def admit(self, greeting: Greeting, *, accept: Callable[[ModelId], object]) -> Funding:
        session = self.sessions.get(greeting.job_id)
        if session is None:
            raise SessionRefused("SESSION_NOT_FOUND", f"there is no session {greeting.job_id}")
        accept(session.model_id)
        known, _ = await self.ledger.remember(session)
        is_proven = greeting.wallet(NOW) == session.depositor
        if greeting.is_proof_due and not is_proven:
            raise greeting.not_depositor(session.depositor)
        return Funding(row=known, is_proven=is_proven)

    def allowance(self, row: SessionRow) -> int:
        return self.max_unproven

    def agreed(self, row: SessionRow, unproven: int) -> None:
        self.claimed[row.job_id] = unproven

    async def close(self, row: SessionRow) -> Closing:
        await self.ledger.close(row.job_id, "closed by its renter")
        agreed = (await self.ledger.balance(row.job_id)).agreed
        return Closing(tokens_proven=agreed, is_final=True, settles_in=0)

    async def drain(self, patience: float) -> None:
        """Nothing is claimed."""


@dataclass(slots=True)
class Reader:
    """An engine that reads a text out, a word a token. Its model is what is not tested here.

    Attributes:
        fails_after: so many words.
        batch_size: words that come together.
    """

    words: Sequence[str]
    state: EngineState = EngineState.READY
    num_cancelled: int = 0
    fails_after: int | None = None
    batch_size: int = 1
    info: EngineInfo = field(
        default_factory=lambda: EngineInfo(
            model="reader",
            max_model_len=4096,
            num_slots=1,
            build="test",
            chat_template="",
            tuning="",
        )
    )

    def capabilities(self) -> frozenset[ModelCapability]:
        return frozenset(ModelCapability)

    @asynccontextmanager
    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[AsyncIterator[tuple[GenerationEvent, ...]]]:
        events = self._read(len(request.generated), request)
        try:
            yield events
        finally:
            self.num_cancelled += 1

    async def _read(
        self, begun: int, request: GenerationRequest
    ) -> AsyncIterator[tuple[GenerationEvent, ...]]:
        num_prompt = sum(len(message.text.split()) for message in request.messages)
        if num_prompt >= self.info.max_model_len:
            raise ContextLengthExceeded(num_prompt, self.info.max_model_len)
        yield (GenerationStart(num_prompt),)
        words = self.words[begun : begun + request.sampling.max_tokens]
        batch: list[GenerationEvent] = []
        for number, word in enumerate(words, start=begun):
            await anyio.sleep(0)
            if number == self.fails_after:
                raise EngineUnavailable("the reader lost its place")
            batch.append(GenerationChunk(word, (1000 + number,)))
            if len(batch) >= self.batch_size:
                yield tuple(batch)
                batch.clear()
        is_whole = begun + len(words) == len(self.words)
        end = GenerationEnd(
            finish_reason="stop" if is_whole else "length",
            num_prompt_tokens=num_prompt,
            num_cached_tokens=0,
            num_completion_tokens=len(words),
            prompt_seconds=0.0,
            decode_seconds=0.0,
        )
        yield (*batch, end)


class MemoryStream:
    """One end of a pair; see `CallerStream`."""

    path = Path.DIRECT

    def __init__(
        self,
        sender: MemoryObjectSendStream[str | bytes],
        receiver: MemoryObjectReceiveStream[str | bytes],
        peer: str,
    ) -> None:
        self.peer = peer
        self.is_known = False
        self.why_refused: str | None = None
        self._sender = sender
        self._receiver = receiver
        self._is_open = True

    @property
    def is_open(self) -> bool:
        return self._is_open

    async def receive(self) -> str | bytes:
        try:
            return await self._receiver.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
            raise anyio.EndOfStream from error

    async def send(self, data: str) -> None:
        try:
            await self._sender.send(data)
        except anyio.ClosedResourceError as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        self._is_open = False
        self._sender.close()
        self._receiver.close()

    async def refuse(self, reason: str) -> None:
        self.why_refused = reason
        await self.aclose()

    def prove(self) -> None:
        self.is_known = True

    def unprove(self) -> None:
        self.is_known = False


@dataclass(slots=True)
class OpenDoor:
    """A door that serves, and what stands behind it."""

    door: SessionDoor
    ledger: HostLedger
    rail: JournalRail
    gate: Gate
    book: SessionBook
    engine: Reader
    random: Callable[[int], bytes]
    _tasks: TaskGroup
    served: list[MemoryStream] = field(default_factory=list[MemoryStream])
    dialled: list[MemoryStream] = field(default_factory=list[MemoryStream])

    def dial(self, peer: str = "203.0.113.7") -> MemoryStream:
        """The renter's end of a new stream; the host's is the last of `served`."""
        to_host = anyio.create_memory_object_stream[str | bytes](1 << 10)
        to_renter = anyio.create_memory_object_stream[str | bytes](1 << 10)
        theirs = MemoryStream(to_renter[0], to_host[1], peer)
        self.served.append(theirs)
        self._tasks.start_soon(self._serve, theirs)
        self.dialled.append(MemoryStream(to_host[0], to_renter[1], f"host {HOST}"))
        return self.dialled[-1]

    async def _serve(self, stream: MemoryStream) -> None:
        await self.door.serve(stream)
        await stream.aclose()


@asynccontextmanager
async def open_door(
    folder: FilePath, words: Sequence[str] = (), *, patience: float = 5.0
) -> AsyncGenerator[OpenDoor]:
    """Serve for the length of the block, with a journal in `folder`."""
    async with (
        open_database(f"sqlite:///{folder}/journal.db") as db,
        anyio.create_task_group() as tasks,
    ):
        random = randomness()
        ledger = HostLedger(db, DOMAIN.chain_id, DOMAIN.contract)
        rail, engine, book = JournalRail(ledger), Reader(words), SessionBook(ledger, random)
        model = ServedModel(
            model_id=SESSION.model_id,
            repo="repo",
            file="file",
            digest=DIGEST,
            pool=EnginePool({"repo:file": engine}),
        )
        answers = AnswerServices(
            ledger=ledger,
            domain=DOMAIN,
            crypto=NATIVE,
            wallet_secret=HOST_SECRET,
            acknowledgement_timeout=patience,
            rail=rail,
            random=random,
            observe_first_token=lambda _name, _seconds: None,
            observe_tokens=lambda _name, _num: None,
        )
        gate = Gate(
            party=PARTY,
            rail=rail,
            ledger=ledger,
            models=ServedModels([model]),
            encryption_secret=ENCRYPTION_SECRET,
        )
        services = DoorServices(
            answers=answers,
            gate=gate,
            book=book,
            party=PARTY,
            strangers=Strangers(),
            describe_error=error_message,
        )
        opened = OpenDoor(
            SessionDoor(services), ledger, rail, gate, book, engine, randomness(7), tasks
        )
        try:
            yield opened
        finally:
            for stream in (*opened.served, *opened.dialled):
                await stream.aclose()
        tasks.cancel_scope.cancel()
