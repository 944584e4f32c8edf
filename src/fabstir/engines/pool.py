"""The models of one process, each with an engine: whoever asks names the model and gets its engine.

Which models are loaded, and when, is the pool's own affair: an engine is had for the length of a
block, and what is said of a model is said whether it is loaded at that moment or not. Today all of
them are loaded at the start and stay.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from fabstir.engines.engine import Engine, EngineInfo, EngineState

LocateModel = Callable[[str], Awaitable[Path]]
"""From a model's name to its verified file."""

OpenEngine = Callable[[str, Path], AbstractAsyncContextManager[Engine]]
"""(model's name, its file) to an engine that answers for the length of the block."""

RequireRoom = Callable[[Mapping[str, Path]], Awaitable[None]]
"""Given every model's file by its name; raises ConfigError where they do not fit into memory."""


class EnginePool:
    """Made by `open_pool`. A name that is none of its models is a KeyError."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def info(self, model: str) -> EngineInfo:
        """What the model's engine offers."""
        return self._engines[model].info

    def state(self, model: str) -> EngineState:
        """Whether the model can answer now."""
        return self._engines[model].state

    @asynccontextmanager
    async def acquire(self, model: str) -> AsyncGenerator[Engine]:
        """The model's engine, which stays loaded for the length of the block."""
        yield self._engines[model]


@asynccontextmanager
async def open_pool(
    models: Sequence[str],
    locate: LocateModel,
    open_engine: OpenEngine,
    *,
    require_room: RequireRoom,
) -> AsyncGenerator[EnginePool]:
    """Serve models for the length of the block.

    Args:
        models: their names, no two alike.
        require_room: asked once all files are there, before any of them is loaded.

    Raises:
        Whatever `locate`, `require_room` and `open_engine` raise.
    """
    # All files first: a download may take an hour, in which no engine need hold memory.
    files = {model: await locate(model) for model in models}
    await require_room(files)
    async with AsyncExitStack() as stack:
        # One after another, because threads are measured at a start.
        engines = {
            model: await stack.enter_async_context(open_engine(model, file))
            for model, file in files.items()
        }
        yield EnginePool(engines)
