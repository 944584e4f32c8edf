"""The port between the supervisor and a driver: how an engine's process is started and watched."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from fabstir.primitives.errors import EngineUnavailable


class CannotStart(EngineUnavailable):
    """This machine gives no process now, whatever the engine is."""


class EngineProcess(Protocol):
    """One start of an engine that has loaded its model."""

    @property
    def pid(self) -> int:
        """The process that holds the model, or that runs the program which does."""
        ...

    async def wait(self) -> int:
        """Until it ends; its exit status, negative for a signal."""
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
