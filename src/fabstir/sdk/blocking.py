"""The client for programs that are not asynchronous: each call waits until it is done.

Nothing is decided here. The asynchronous client runs in a thread of its own, which keeps watching
over unfinished sessions between the calls, and every method has the signature and the words of the
one that it calls.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import wraps
from typing import Concatenate, Generic, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fabstir.config import Settings
from fabstir.primitives.errors import LocalProtocolError
from fabstir.primitives.ids import Address, JobId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.additions import Addition
from fabstir.protocol.answers import AnswerContent
from fabstir.protocol.payloads import EndPlaintext
from fabstir.sdk.answer import AsyncAnswerStream
from fabstir.sdk.client import open_async_client
from fabstir.sdk.events import AnswerEvent
from fabstir.sdk.money import PaymentToken
from fabstir.sdk.renter import AsyncClient
from fabstir.sdk.session import AsyncSession
from fabstir.sdk.session_info import SessionInfo

P = ParamSpec("P")
T = TypeVar("T")
Inner = TypeVar("Inner")
AskedT = TypeVar("AskedT")
OpenedT = TypeVar("OpenedT")


class _Running(Generic[T]):
    """A call on the loop, which can be stopped from another thread."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._scope: anyio.CancelScope | None = None
        self._has_ended = anyio.Event()

    async def run(self) -> T:
        try:
            with anyio.CancelScope() as self._scope:
                return await self._call()
            raise concurrent.futures.CancelledError
        finally:
            self._has_ended.set()

    async def stop(self) -> None:
        """Cancel it and wait until it has ended; nothing if it never began."""
        if self._scope is not None:
            self._scope.cancel()
            await self._has_ended.wait()


class _Entering(Generic[T]):
    """A block on the loop, which can be given up from another thread, also while it is entered."""

    def __init__(self, block: AbstractAsyncContextManager[T]) -> None:
        self._block = block
        self._scope: anyio.CancelScope | None = None
        self._has_ended = anyio.Event()

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[T]:
        try:
            with anyio.CancelScope() as self._scope:
                async with self._block as inner:
                    yield inner
                return
            raise concurrent.futures.CancelledError
        finally:
            self._has_ended.set()

    async def stop(self) -> None:
        """Cancel it and wait until what it opened is closed; nothing if it never began."""
        if self._scope is not None:
            self._scope.cancel()
            await self._has_ended.wait()


@contextmanager
def _entered(block: AbstractAsyncContextManager[T], portal: BlockingPortal) -> Generator[T]:
    """The block of `async with` as one of `with`. Whoever interrupts its beginning (Ctrl-C) finds
    what it had opened closed: nobody else would ever leave it."""
    entering = _Entering(block)
    with ExitStack() as stack:
        try:
            inner = stack.enter_context(portal.wrap_async_context_manager(entering.run()))
        except RuntimeError as exc:
            _require_running(portal, exc)
            raise
        except Exception:
            raise
        except BaseException:
            # See `_Blocking._wait_for`: the block has begun by the time that this is run.
            portal.call(entering.stop)
            raise
        yield inner


def _require_running(portal: BlockingPortal, error: RuntimeError) -> None:
    """Raises LocalProtocolError: the client's block has been left, which is what `error` means."""
    try:
        portal.start_task_soon(anyio.lowlevel.checkpoint)
    except RuntimeError:
        raise LocalProtocolError(
            "the client's block has been left, and everything in it is closed: call it inside "
            "`with open_client() as client:`"
        ) from error


class _Blocking(Generic[Inner]):
    """Something asynchronous, and the loop that it lives on."""

    def __init__(self, inner: Inner, portal: BlockingPortal) -> None:
        self._inner = inner
        self._portal = portal

    def _wait_for(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the call returns. Whoever interrupts it (Ctrl-C) cancels it, and finds it ended:
        two calls at a time would read one stream."""
        running = _Running(call)
        try:
            return self._portal.call(running.run)
        except RuntimeError as exc:
            _require_running(self._portal, exc)
            raise
        except Exception:
            raise
        except BaseException:
            # Wherever it came: the loop takes its work in turn, so a call that is still to begin
            # has begun when this one does.
            self._portal.call(running.stop)
            raise

    @staticmethod
    def _call(
        method: Callable[Concatenate[AskedT, P], Awaitable[T]],
    ) -> Callable[Concatenate[_Blocking[AskedT], P], T]:
        """The method, waited for."""

        @wraps(method)
        def call(self: _Blocking[AskedT], *args: P.args, **kwargs: P.kwargs) -> T:
            return self._wait_for(lambda: method(self._inner, *args, **kwargs))

        return call

    @staticmethod
    def _block(
        method: Callable[Concatenate[AskedT, P], AbstractAsyncContextManager[OpenedT]],
        outer: Callable[[OpenedT, BlockingPortal], T],
    ) -> Callable[Concatenate[_Blocking[AskedT], P], AbstractContextManager[T]]:
        """The method, whose block is one of `with`."""

        @wraps(method)
        @contextmanager
        def block(self: _Blocking[AskedT], *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
            opened = method(self._inner, *args, **kwargs)
            with _entered(opened, self._portal) as inner:
                yield outer(inner, self._portal)

        return block


class AnswerStream(_Blocking[AsyncAnswerStream]):
    """The events of one answer; all of it as in `AsyncAnswerStream`."""

    @property
    def text(self) -> str:
        return self._inner.text

    @property
    def content(self) -> AnswerContent:
        return self._inner.content

    @property
    def additions(self) -> tuple[Addition, ...]:
        return self._inner.additions

    @property
    def end(self) -> EndPlaintext | None:
        return self._inner.end

    @property
    def is_over(self) -> bool:
        return self._inner.is_over

    def __iter__(self) -> Iterator[AnswerEvent]:
        return self

    def __next__(self) -> AnswerEvent:
        event = self._wait_for(self._next)
        if event is None:
            raise StopIteration
        return event

    async def _next(self) -> AnswerEvent | None:
        return await anext(self._inner, None)

    complete = _Blocking._call(AsyncAnswerStream.complete)
    cancel = _Blocking._call(AsyncAnswerStream.cancel)
    finish = _Blocking._call(AsyncAnswerStream.finish)


class Session(_Blocking[AsyncSession]):
    """One session; all of it as in `AsyncSession`."""

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def job_id(self) -> JobId:
        return self._inner.job_id

    @property
    def token(self) -> PaymentToken:
        return self._inner.token

    @property
    def info(self) -> SessionInfo:
        return self._inner.info

    @property
    def tokens(self) -> TokenCount:
        return self._inner.tokens

    @property
    def cost(self) -> Wei:
        return self._inner.cost

    @property
    def deposit_left(self) -> Wei:
        return self._inner.deposit_left

    chat = _Blocking._block(AsyncSession.chat, AnswerStream)
    close = _Blocking._call(AsyncSession.close)
    leave = _Blocking._call(AsyncSession.leave)


class Client(_Blocking[AsyncClient]):
    """Finds hosts, opens and closes sessions; all of it as in `AsyncClient`.

    Made by `open_client`.
    """

    @property
    def wallet(self) -> Address:
        return self._inner.wallet

    @property
    def tokens(self) -> tuple[PaymentToken, ...]:
        return self._inner.tokens

    def token(self, name: str) -> PaymentToken:
        return self._inner.token(name)

    models = _Blocking._call(AsyncClient.models)
    find_hosts = _Blocking._call(AsyncClient.find_hosts)
    quote = _Blocking._call(AsyncClient.quote)
    open_session = _Blocking._block(AsyncClient.open_session, Session)
    resume_session = _Blocking._block(AsyncClient.resume_session, Session)
    close_session = _Blocking._call(AsyncClient.close_session)
    sessions = _Blocking._call(AsyncClient.sessions)
    recover = _Blocking._call(AsyncClient.recover)
    conversation = _Blocking._call(AsyncClient.conversation)
    balances = _Blocking._call(AsyncClient.balances)


@contextmanager
def open_client(settings: Settings | None = None) -> Generator[Client]:
    """`open_async_client` for programs that are not asynchronous."""
    with (
        start_blocking_portal("asyncio") as portal,
        _entered(open_async_client(settings), portal) as client,
    ):
        yield Client(client, portal)
