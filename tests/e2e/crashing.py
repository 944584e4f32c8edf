"""A host that dies as often as a test likes, and one session whose life it dies in.

CrashingHost   `fabstir serve` between two relays: one to its renters, one to its chain. It is
               killed as by a power cut and started again in the same folder.
HostJournal    what the host has written down, read while it runs.
Scene          one renter's session with it; the kill points are made of its
               methods.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit

from anyio.abc import TaskGroup
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool
from tests.anvil import mine, set_automine
from tests.e2e.harness import HostStarter, descendants, eventually, is_running, session_of
from tests.e2e.relay import Relay, open_relay

from fabstir.chain.contracts import SessionStatus
from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.db import claims, host_sessions, outbox, receipts
from fabstir.db.claims import ClaimRow, ClaimState
from fabstir.db.host_sessions import SessionKey, SessionRow
from fabstir.db.outbox import OutboxRow
from fabstir.primitives.errors import HostUnresponsive
from fabstir.primitives.ids import Address, JobId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import AnswerEvent, AsyncSession, ReceiptVerified, Text

STORY = "Write a long story about a lighthouse keeper and the sea."

T = TypeVar("T")


# -- the host ---------------------------------------------------------------------------------


class CrashingHost:
    """One host, however often it is started. Made by `open_crashing_host`.

    Attributes:
        to_renters: carries what it says to its renters, and they to it.
        to_chain: carries what it asks of its chain.
    """

    def __init__(
        self,
        devnet: Devnet,
        start: HostStarter,
        name: str,
        to_renters: Relay,
        to_chain: Relay,
        settings: Mapping[str, str],
    ) -> None:
        self.devnet = devnet
        self.account = start.signer(name).address
        self.to_renters = to_renters
        self.to_chain = to_chain
        self._start = partial(
            start,
            name,
            {
                "host.api_url": to_renters.url,
                "chain.rpc_url": to_chain.url,
                # Shorter than it is away: absent is only who does not come when it is back.
                "host.reconnect_grace_seconds": "3",
                **settings,
            },
        )
        self._running = AsyncExitStack()
        self._process: HostProcess | None = None

    @property
    def process(self) -> HostProcess:
        assert self._process is not None, "it runs"
        return self._process

    async def start(self) -> None:
        """In the same folder, on the same ports."""
        self._process = await self._running.enter_async_context(self._start())

    async def kill(self) -> None:
        """As a power cut would; what was on the way is lost with it."""
        if self._process is not None:
            children = descendants(self._process.process.pid)
            assert children, "its engine"
            await self._process.kill()
            self._process = None
            await eventually(partial(_have_ended, children))
        await self._running.aclose()  # looks for ERROR lines
        self.to_renters.let_go()
        self.to_chain.let_go()


async def _have_ended(processes: Iterable[int]) -> bool:
    return not any(is_running(process) for process in processes)


@asynccontextmanager
async def open_crashing_host(
    devnet: Devnet, start: HostStarter, name: str, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[CrashingHost]:
    """Run a host, with settings of its own; leaving the block kills it for good."""
    api_port, rpc_port = int(start.settings(name)["host.port"]), urlsplit(devnet.rpc_url).port
    assert rpc_port is not None
    async with open_relay(api_port) as to_renters, open_relay(rpc_port) as to_chain:
        host = CrashingHost(devnet, start, name, to_renters, to_chain, settings or {})
        await host.start()
        try:
            yield host
        finally:
            await host.kill()


# -- its journal ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJournal:
    """What a host has written down of one session, whether or not it runs."""

    path: Path
    key: SessionKey
    account: Address

    @classmethod
    def of(cls, devnet: Devnet, host: HostProcess, job_id: JobId) -> Self:
        deployment = devnet.deployment
        return cls(
            path=host.data_dir / "host.sqlite",
            key=SessionKey(deployment.chain_id, deployment.job_marketplace, job_id),
            account=host.account,
        )

    def row(self) -> SessionRow | None:
        return self._read(lambda c: host_sessions.load_session(c, self.key))

    def tokens_agreed(self) -> int:
        """As far as acknowledgements have reached it."""
        last = self._read(lambda c: receipts.last_claimable(c, self.key))
        return last.cumulative_tokens if last else 0

    def claims(self, state: ClaimState) -> list[ClaimRow]:
        rows = self._read(lambda c: claims.list_claims(c, self.key))
        return [row for row in rows if row.state == state]

    def transaction(self, action: str) -> OutboxRow | None:
        """What the outbox knows of "proof:0", "complete" and so on."""
        key = self.key
        name = f"{key.contract}:{key.job_id}:{action}"
        if action == "complete":  # an end is named after the session, not its number alone
            row = self.row()
            assert row is not None, "it is being ended"
            name += f":{row.started_at}:{row.depositor}"
        return self._read(lambda c: outbox.find_transaction(c, key.chain_id, self.account, name))

    def _read(self, look: Callable[[Connection], T]) -> T:
        engine = create_engine(f"sqlite:///file:{self.path}?mode=ro&uri=true", poolclass=NullPool)
        with engine.connect() as connection:
            return look(connection)


# -- a session --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One session of one renter with a host that is about to die.

    Attributes:
        tasks: what the renter does meanwhile.
        events: what its answers consisted of so far.
        noticed_at: when, by the machine's monotonic clock, it knew that the host was gone.
    """

    devnet: Devnet
    host: CrashingHost
    session: AsyncSession
    journal: HostJournal
    tasks: TaskGroup
    events: list[AnswerEvent] = field(default_factory=list[AnswerEvent])
    noticed_at: list[float] = field(default_factory=list[float])

    @property
    def job_id(self) -> JobId:
        return self.session.job_id

    # -- what the renter does -------------------------------------------------------------------

    async def answer(self, num_tokens: int, prompt: str = STORY) -> None:
        """Ask, and take what comes until the end, or until the host is gone."""
        # Greedy: the answer is the same each time, and longer than any test wants.
        sampling = SamplingParams(max_tokens=TokenCount(num_tokens), temperature=0)
        messages = [Message("user", prompt)]
        try:
            async with self.session.chat(messages, sampling=sampling) as answer:
                async for event in answer:
                    self.events.append(event)
        except HostUnresponsive:
            self.noticed_at.append(time.monotonic())

    async def answer_at_last(self, num_tokens: int) -> None:
        """Ask, and once more if only then the old connection turns out to be dead."""
        failures = len(self.noticed_at)
        await self.answer(num_tokens)
        if len(self.noticed_at) > failures:
            await self.answer(num_tokens)

    def start_answer(self, num_tokens: int = 300, prompt: str = STORY) -> None:
        self.tasks.start_soon(self.answer, num_tokens, prompt)

    def start_close(self) -> None:
        self.tasks.start_soon(self.session.close)

    # -- what tells how far things are ----------------------------------------------------------

    async def until(self, look: Callable[[], object]) -> None:
        """Until something is true on this machine."""

        async def is_there() -> bool:
            return bool(look())

        await eventually(is_there, interval=0.005)

    async def until_on_chain(self, look: Callable[[], Awaitable[bool]]) -> None:
        await eventually(look, interval=0.01)

    async def until_tokens(self, num_tokens: int) -> None:
        """The renter has had so many, receipted or not."""
        await self.until(lambda: self.num_tokens >= num_tokens)

    async def until_planned(self) -> None:
        await self.until(lambda: self.journal.claims(ClaimState.PLANNED))

    async def until_claimed(self) -> None:
        """The host knows that its claim is on chain."""
        await self.until(lambda: self.journal.claims(ClaimState.MINED))

    async def until_held(self) -> None:
        """The host is about to tell its chain what a relay was told to hold."""
        await self.until(self.host.to_chain.has_held.is_set)

    async def until_sent(self) -> None:
        """A transaction of the host waits for a block."""
        chain, account = self.devnet.chain, self.host.account

        async def is_pending() -> bool:
            return await chain.nonce(account, tag="pending") > await chain.nonce(account)

        await self.until_on_chain(is_pending)

    async def until_paid(self) -> None:
        """The claim is mined, whatever the host knows."""

        async def is_paid() -> bool:
            return (await session_of(self.devnet, self.job_id)).tokens_used > 0

        await self.until_on_chain(is_paid)

    async def until_over(self) -> None:
        """The session is settled, whatever the host knows."""

        async def is_over() -> bool:
            job = await session_of(self.devnet, self.job_id)
            return job.status is not SessionStatus.ACTIVE

        await self.until_on_chain(is_over)

    @property
    def num_tokens(self) -> int:
        """Tokens that the renter has had."""
        return sum(event.num_tokens for event in self.events if isinstance(event, Text))

    @property
    def num_receipts(self) -> int:
        return sum(isinstance(event, ReceiptVerified) for event in self.events)

    # -- what goes wrong besides ----------------------------------------------------------------

    async def stop_blocks(self) -> None:
        await set_automine(self.devnet.chain, enabled=False)

    async def make_blocks(self) -> None:
        """Again, and what waits gets into the next one now."""
        await set_automine(self.devnet.chain, enabled=True)
        await mine(self.devnet.chain)
