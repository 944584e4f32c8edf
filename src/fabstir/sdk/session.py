"""A paid session at one host: ask, be answered, close; it survives its sockets.

The renter holds the conversation and sends all of it with each request; the host remembers
nothing that the renter needs. So a connection that is lost costs the answer that was running, and
the next request opens another one, after the last acknowledged receipt.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from fabstir.chain.keystore import Signer
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.errors import FabstirError, HostUnresponsive, LocalProtocolError
from fabstir.primitives.ids import Address
from fabstir.primitives.units import TokenCount, Wei, cost_of
from fabstir.protocol.authorization import SessionKeyAuthorization
from fabstir.protocol.content import Message, Tool
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.exchange.handshake import Introduction
from fabstir.protocol.exchange.renter import Closed, RenterExchange
from fabstir.protocol.exchange.verification import SessionFacts, Verified, head_after
from fabstir.protocol.limits import MAX_AUTHORIZATION_LIFETIME
from fabstir.protocol.payloads import ClosedPlaintext
from fabstir.protocol.receipts import ChainHead, SignedAcknowledgement
from fabstir.protocol.request import (
    ChatRequest,
    Reasoning,
    RequestPlaintext,
    ResponseFormat,
    ToolChoice,
)
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk.answer import AsyncAnswerStream
from fabstir.sdk.connection import HostConnection, open_connection
from fabstir.sdk.journal import RenterJournal
from fabstir.sdk.money import PaymentToken, SessionSettlement
from fabstir.sdk.rail import RenterRail
from fabstir.sdk.requests import chat_request
from fabstir.sdk.session_info import SessionInfo
from fabstir.sdk.transports import Transports
from fabstir.telemetry.background import to_its_end

_logger = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 60.0
"""Seconds for the host to put its last claim on chain and say so."""

CANCEL_TIMEOUT: Final = 10.0
"""Seconds for a cancelled answer's last receipt; after that the socket is dropped instead."""

DEFAULT_MAX_TOKENS: Final = 1024
"""Completion tokens of an answer if the app names no limit."""

_DEFAULT_SAMPLING: Final = SamplingParams(max_tokens=DEFAULT_MAX_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionServices:
    """What every session of a client needs.

    Attributes:
        find_url: where the registry says that a host is now; "" for one that left.
        random: gives secure random bytes.
    """

    wallet: Signer = field(repr=False)
    journal: RenterJournal
    rail: RenterRail
    transports: Transports
    find_url: Callable[[Address], Awaitable[str]]
    crypto: Crypto
    clock: Callable[[], float]
    random: Callable[[int], bytes]


class AsyncSession:
    """One session. Made by `AsyncClient.open_session` and `resume_session`.

    Attributes:
        token: what it is paid in.
        job_id: its number on chain.
    """

    def __init__(
        self,
        row: RenterSession,
        token: PaymentToken,
        services: SessionServices,
        stack: AsyncExitStack,
        head: ChainHead,
        addresses: Sequence[str],
    ) -> None:
        assert row.job_id is not None, "a session is used once its deposit is in the chain"
        self.token = token
        self.job_id = row.job_id
        self._row = row
        self._services = services
        self._stack = stack
        self._connection: HostConnection | None = None
        self._head = head
        self._addresses: Sequence[str] = addresses
        self._is_answering = False
        self._facts = SessionFacts(
            job_id=row.job_id,
            host=row.host,
            model_digest=row.model_digest,
            deposit=row.deposit,
            price_per_token=row.price_per_token,
            domain=Domain(row.chain_id, row.contract),
            crypto=services.crypto,
        )

    @property
    def id(self) -> str:
        """Its name in the journal."""
        return self._row.id

    @property
    def info(self) -> SessionInfo:
        """Its terms, and where it stands."""
        return SessionInfo.of(self._row, self.tokens)

    @property
    def tokens(self) -> TokenCount:
        """Completion tokens acknowledged so far."""
        return self._head.cumulative_tokens

    @property
    def cost(self) -> Wei:
        """What they cost, in the payment token's smallest unit."""
        return cost_of(self._head.cumulative_tokens, self._row.price_per_token)

    @property
    def deposit_left(self) -> Wei:
        """What of the deposit is not spent yet."""
        return Wei(self._row.deposit - self.cost)

    @asynccontextmanager
    async def chat(
        self,
        messages: Sequence[Message],
        *,
        sampling: SamplingParams = _DEFAULT_SAMPLING,
        response_format: ResponseFormat | None = None,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice | None = None,
        reasoning: Reasoning | None = None,
    ) -> AsyncGenerator[AsyncAnswerStream]:
        """Ask for the next message of a conversation.

        Leaving the block before the answer's end cancels it: what was delivered is receipted and
        acknowledged, nothing more is generated.

        Args:
            messages: the whole conversation, oldest first.
            sampling: how tokens are chosen; without a seed in it, neither side chooses one.

        Raises:
            LocalProtocolError: another answer is running, or an argument is of the wrong type.
            RequestRefused: no host would take the request, or this one does not.
            HostUnresponsive, SessionRefused, ReceiptMismatch: the session cannot be (re)opened.
        """
        if self._is_answering:
            raise LocalProtocolError("a session answers one request at a time: open another one")
        request = chat_request(
            messages,
            model=self._row.model_name,
            sampling=sampling,
            response_format=response_format,
            tools=tools,
            tool_choice=tool_choice,
            reasoning=reasoning,
        )
        self._is_answering = True
        try:
            answer = await self._ask(request)
            try:
                yield answer
            finally:
                await to_its_end(self._finish(answer))
        except HostUnresponsive as error:
            await self.leave()
            raise HostUnresponsive(f"{error}. {self._what_is_kept()}") from error
        except FabstirError:
            await self.leave()
            raise
        finally:
            self._is_answering = False

    async def close(self, *, now: bool = False) -> SessionSettlement:
        """End the session and see the rest of the deposit come home.

        The host is asked to put its last claim on chain and to settle; if it does not settle in
        time, we do. A host that does not say, sealed, that it claims nothing more keeps the time
        that it was promised to claim what was acknowledged; the client then brings the rest home.

        Args:
            now: settle at once, even if not everything that was acknowledged is claimed.
        """
        services = self._services
        self._row = await services.journal.update(self._row, state=RenterState.CLOSING)
        try:
            closed = await self._ask_to_close()
        finally:
            await self.leave()
        self._row = await services.rail.end(self._row, closed, now=now)
        return await services.rail.settlement(self._row, self.token)

    async def leave(self) -> None:
        """Drop the connection; the session stays open for a while and can be resumed."""
        self._connection = None
        await self._stack.aclose()

    # -- one request --------------------------------------------------------------------------

    async def _ask(self, request: ChatRequest) -> AsyncAnswerStream:
        connection = await self._connected()
        random = self._services.random
        asked = RequestPlaintext(
            request=request,
            salt=random(32),
            client_nonce=random(32) if request.sampling.seed is None else None,
        )
        exchange = connection.exchange
        try:
            await connection.send(exchange.ask(asked))
        except anyio.get_cancelled_exc_class():
            # The host may have it or not: the next request needs a connection that is agreed.
            await to_its_end(self.leave())
            raise
        assert exchange.verifier is not None, "a request is out"
        return AsyncAnswerStream(connection, exchange.verifier, self._facts, self._agree)

    async def _finish(self, answer: AsyncAnswerStream) -> None:
        """Leave host and renter agreed, however the block ended; else without a connection."""
        with anyio.move_on_after(CANCEL_TIMEOUT):
            await answer.finish()
        if not answer.is_over:
            await self.leave()

    async def _agree(self, verified: Verified) -> SignedAcknowledgement:
        signed = await self._services.rail.agree(self._row, verified)
        self._head = head_after(signed)
        return signed

    async def _ask_to_close(self) -> ClosedPlaintext | None:
        """The host's last word, after its last claim; None if it does not say it."""
        try:
            connection = await self._connected()
            await connection.send(connection.exchange.close())
            return await self._hear_closed(connection)
        except FabstirError as error:
            extra = {"job_id": self.job_id, "reason": str(error)}
            _logger.info("host did not close the session", extra=extra)
            return None

    async def _hear_closed(self, connection: HostConnection) -> ClosedPlaintext:
        event = await connection.receive(CLOSE_TIMEOUT)
        assert isinstance(event, Closed), "nothing else is legal"
        return event.closed

    def _what_is_kept(self) -> str:
        money, row = self.token.format, self._row
        return (
            f"{self.tokens} tokens ({money(self.cost)}) are acknowledged and stay payable to it; "
            f"what came after them is not billed. The rest of the deposit "
            f"({money(self.deposit_left)}) comes home when session {self.job_id} is closed, at "
            f"the latest {row.proof_window} s after the host's last claim. Ask again to "
            "reconnect, or close the session"
        )

    # -- the connection -----------------------------------------------------------------------

    async def _connected(self) -> HostConnection:
        """The open connection, or a new one after the last acknowledged receipt.

        A socket that was lost during a pause is nothing to tell the user: it is opened anew, and
        if the session ended meanwhile, the host's gate says so.
        """
        if self._connection is not None and self._connection.is_lost:
            await self.leave()
        if self._connection is None:
            last = await self._services.journal.last_acknowledgement(self._row)
            self._head = head_after(last)
            self._connection = await self._open(last)
            await self._services.journal.touch(self._row)
        return self._connection

    async def _open(self, last: SignedAcknowledgement | None) -> HostConnection:
        """Connect where the host was, and if it is not there, where the registry says it is now."""
        services = self._services
        try:
            return await self._open_at_any(self._addresses, last)
        except HostUnresponsive:
            api_url = await services.find_url(self._row.host)
            if not api_url or api_url in self._addresses:
                raise
        self._row = await services.journal.update(self._row, api_url=api_url)
        self._addresses = (api_url,)
        return await self._open_at_any(self._addresses, last)

    async def _open_at_any(
        self, addresses: Sequence[str], last: SignedAcknowledgement | None
    ) -> HostConnection:
        """At the first address that answers.

        Raises:
            HostUnresponsive: none does; names each, and why.
        """
        failures: list[str] = []
        for address in addresses:
            try:
                return await self._open_at(address, last)
            except HostUnresponsive as error:
                failures.append(str(error))
        raise HostUnresponsive("; ".join(failures))

    async def _open_at(self, address: str, last: SignedAcknowledgement | None) -> HostConnection:
        services = self._services
        exchange = RenterExchange(self._facts, self._head)
        greeting = exchange.greet(self._introduction(last), services.random)
        stream = await services.transports.dial(address, self._row.host)
        return await self._stack.enter_async_context(open_connection(stream, exchange, greeting))

    def _introduction(self, last: SignedAcknowledgement | None) -> Introduction:
        row, services = self._row, self._services
        crypto = services.crypto
        lifetime = min(row.max_duration, MAX_AUTHORIZATION_LIFETIME // 2)
        authorization = SessionKeyAuthorization(
            job_id=self.job_id,
            host=row.host,
            session_key=crypto.address_of(crypto.public_key(row.session_secret)),
            expires_at=int(services.clock()) + lifetime,
        )
        return Introduction(
            host_public_key=row.host_public_key,
            model_name=row.model_name,
            session_secret=row.session_secret,
            recovery_public_key=crypto.public_key(row.recovery_secret),
            authorization=authorization.sign(
                services.wallet.secret_key, self._facts.domain, crypto
            ),
            last_acknowledgement=last,
        )
