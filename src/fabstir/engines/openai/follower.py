"""A server that somebody else runs, followed: it is never started or ended from here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import anyio

from fabstir.engines._http import EngineRefused, is_exhausted
from fabstir.engines.launcher import CannotStart
from fabstir.engines.openai.address import RemoteAddress
from fabstir.engines.openai.servers import ServedThere, recognise
from fabstir.primitives.errors import ConfigError, EngineCrashed, EngineUnavailable

_POLL_SECONDS = 0.2


class RemoteServer:
    """The `EngineProcess` of a server elsewhere, from when it was recognised until it is lost."""

    def __init__(self, address: RemoteAddress) -> None:
        self.address = address
        self._lost = anyio.Event()
        self._why = ""

    @property
    def pid(self) -> int | None:
        """See `EngineProcess.pid`: it is not ours to know."""
        return None

    async def wait(self) -> int:
        """Until it is lost, whoever's fault that is.

        Raises:
            CannotStart: always: what it takes is not here.
        """
        await self._lost.wait()
        raise CannotStart(self._why)

    def kill(self) -> None:
        """Give it up: it hangs."""
        self._lose(
            f"{self.address.config.url} accepts connections and answers no health check: the "
            "server hangs, was suspended or is overloaded; look at its log, and restart it"
        )

    async def is_alive(self) -> bool:
        """See `EngineProcess.is_alive`. Lost at once where nobody listens any more."""
        try:
            await self.address.get_text("/health")
        except EngineUnavailable as error:
            if is_exhausted(error):
                return True
            if isinstance(error.__cause__, OSError) and not isinstance(
                error.__cause__, TimeoutError
            ):
                self._lose(str(error))
            return False
        except EngineRefused as error:
            self._lose(
                f"{self.address.config.url} says that it is not well ({error.message}): look at "
                "the server's log, and restart it"
            )
            return False
        except EngineCrashed:
            return False
        return True

    def _lose(self, why: str) -> None:
        self._why = self._why or why
        self.address.break_off(why)
        self._lost.set()


@dataclass(frozen=True, slots=True)
class RemoteLauncher:
    """The `Launcher` of servers elsewhere: it waits for them."""

    address: RemoteAddress
    expected: ServedThere

    def open(self) -> AbstractAsyncContextManager[RemoteServer]:
        """See `Launcher.open`."""
        return _open_server(self.address, self.expected)


@asynccontextmanager
async def _open_server(
    address: RemoteAddress, expected: ServedThere
) -> AsyncGenerator[RemoteServer]:
    """Look whether it is there, and the same.

    Raises:
        CannotStart: it is not.
    """
    try:
        found = await recognise(address, address.config)
    except (ConfigError, EngineUnavailable) as error:
        raise CannotStart(str(error)) from error
    if found != expected:
        raise CannotStart(
            f"{address.config.url} came back as another server ({_difference(expected, found)}): "
            "have it serve what it served, or start this host again"
        )
    yield RemoteServer(address)


def _difference(expected: ServedThere, found: ServedThere) -> str:
    names = [
        name for name in ServedThere.__slots__ if getattr(expected, name) != getattr(found, name)
    ]
    return ", ".join(names)


async def first_look(address: RemoteAddress, on_progress: Callable[[str], None]) -> ServedThere:
    """Wait for a server that may be starting as well.

    Raises:
        ConfigError: it is there, and no engine of ours.
        EngineUnavailable: it is not ready in time; says what kept it.
    """
    config = address.config
    deadline = anyio.current_time() + config.start_timeout
    on_progress(f"asking {config.url}")
    while True:
        try:
            return await recognise(address, config)
        except EngineUnavailable as error:
            if anyio.current_time() > deadline:
                raise EngineUnavailable(
                    f"{error}. This was waited for {config.start_timeout:g} s: if the server only "
                    "starts slowly, raise engine.start_timeout_seconds"
                ) from error
            on_progress(str(error))
        await anyio.sleep(_POLL_SECONDS)
