"""The port between the supervisor and a driver: how an engine's process is started and watched."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from fabstir.primitives.errors import EngineUnavailable


class CannotStart(EngineUnavailable):
    """There is no engine to be had now, and none is to be blamed: this machine gives no process, or
    a server that somebody else runs is away."""


class EngineProcess(Protocol):
    """One start of an engine that has loaded its model."""

    @property
    def pid(self) -> int | None:
        """The process that holds the model, or that runs the program which does; None where it is
        not of this machine's."""
        ...

    async def wait(self) -> int:
        """Until it ends; its exit status, negative for a signal.

        Raises:
            CannotStart: it is lost, and nobody here can start it again.
        """
        ...

    def kill(self) -> None:
        """End it at once: it has nothing to save, and a hung one hears no request."""
        ...

    async def is_alive(self) -> bool:
        """Whether it answers a health check, however long that takes; the caller has the timeout.

        True also where nobody can know, because this process is out of descriptors or memory.
        """
        ...


ProcessT_co = TypeVar("ProcessT_co", bound=EngineProcess, covariant=True)


class Launcher(Protocol[ProcessT_co]):
    """Starts one engine, again and again. Each driver has its own."""

    def open(self) -> AbstractAsyncContextManager[ProcessT_co]:
        """Start the engine and wait until it has loaded its model; it ends with the block.

        Raises:
            CannotStart: there is no process to be had now.
            EngineUnavailable: it ended or did not get ready in time; the text has its last words.
        """
        ...
