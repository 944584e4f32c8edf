"""Keeping one engine running: watched, started again after a crash, given up after many.

Nothing here knows which engine it is: a `Launcher` starts it and says whether it is alive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic

import anyio

from fabstir.engines._heartbeat import OwnPace, processor_seconds
from fabstir.engines.engine import EngineState
from fabstir.engines.launcher import CannotStart, EngineProcess, Launcher, ProcessT_co
from fabstir.primitives.errors import EngineUnavailable
from fabstir.telemetry.background import running

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When an engine is started again, and when not. Times are in seconds.

    Attributes:
        delays: before each further start after a crash; after that many crashes in a row it
            stays down.
        steady_seconds: an engine that ran this long has earned its restarts back.
        heartbeat_seconds: between two looks at it.
        heartbeat_timeout: without a sign of life after which it is killed and started again, unless
            this process was itself not run for half of them, or the engine was at work.
    """

    delays: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0)
    steady_seconds: float = 60.0
    heartbeat_seconds: float = 2.0
    heartbeat_timeout: float = 10.0


MAX_BUSY_HEARTBEATS: Final = 3
"""Unanswered ones in a row that work excuses: an engine that spins for ever works as well."""

_WORKING: Final = 0.1
"""Of one processor: an engine without a request takes a hundredth of that."""


@dataclass(frozen=True, slots=True)
class _Sign:
    """The last sign of life, and what had been counted then. All in seconds."""

    at: float
    seconds_lost: float
    processor_seconds: float


class Supervisor(Generic[ProcessT_co]):
    """Keeps one engine running: `process` is what answers now, if anything does.

    Args:
        processor_time: seconds that the process of an id has had of the processors.
    """

    def __init__(
        self,
        launcher: Launcher[ProcessT_co],
        policy: RestartPolicy,
        processor_time: Callable[[int], float] = processor_seconds,
    ) -> None:
        self._launcher = launcher
        self._processor_time = processor_time
        self._policy = policy
        self._process: ProcessT_co | None = None
        self._state = EngineState.LOADING
        self._reason = "the model is being loaded"

    @property
    def state(self) -> EngineState:
        """Whether it can answer now."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The process's, for as long as it answers."""
        return self._process.pid if self._process else None

    @property
    def process(self) -> ProcessT_co:
        """What answers now. Raises EngineUnavailable, with the reason."""
        if self._process is None:
            fix = "start the host again" if self._state is EngineState.FAILED else "try again soon"
            raise EngineUnavailable(f"the engine is {self._state} ({self._reason}): {fix}")
        return self._process

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Until cancelled, or until the engine crashed too often.

        Raises:
            EngineUnavailable: the very first start failed.
        """
        num_crashes = 0
        while True:
            started = anyio.current_time()
            try:
                await self._run_once(on_ready)
            except CannotStart as error:
                if self._state is EngineState.LOADING:
                    raise
                await self._wait_for_the_machine(error)
                continue
            except EngineUnavailable as error:
                if self._state is EngineState.LOADING:
                    raise
                self._reason = str(error)
            if anyio.current_time() - started > self._policy.steady_seconds:
                num_crashes = 0
            if num_crashes == len(self._policy.delays):
                self._state = EngineState.FAILED
                _logger.error("engine keeps crashing: left down", extra={"reason": self._reason})
                return
            self._state = EngineState.RESTARTING
            _logger.warning("engine died: starting it again", extra={"reason": self._reason})
            await anyio.sleep(self._policy.delays[num_crashes])
            num_crashes += 1

    async def _wait_for_the_machine(self, error: CannotStart) -> None:
        """The engine is not to blame when the machine starts no process: try for ever."""
        if (EngineState.RESTARTING, str(error)) != (self._state, self._reason):
            _logger.warning("the engine cannot be started yet", extra={"reason": str(error)})
        self._state, self._reason = EngineState.RESTARTING, str(error)
        await anyio.sleep(self._policy.delays[-1] if self._policy.delays else 1.0)

    async def _run_once(self, on_ready: Callable[[], None]) -> None:
        async with self._launcher.open() as process:
            self._process, self._state = process, EngineState.READY
            self._reason = ""
            on_ready()
            try:
                async with running(partial(self._kill_if_hung, process)):
                    status = await process.wait()
            finally:
                self._process = None
        self._reason = self._reason or _how_it_ended(status)

    async def _kill_if_hung(self, process: EngineProcess) -> None:
        """A process that hangs would hold its requests for ever; killed, it fails them by name."""
        timeout = self._policy.heartbeat_timeout
        pace = OwnPace(timeout / 40)
        async with running(pace.run):
            await self._watch(process, pace)
        self._reason = f"it hung: no answer to a health check in {timeout:g} s"
        process.kill()

    async def _watch(self, process: EngineProcess, pace: OwnPace) -> None:
        """Until it has been silent for a whole heartbeat without an excuse."""
        timeout = self._policy.heartbeat_timeout
        last, num_busy = self._sign(process, pace), 0
        while True:
            await anyio.sleep(min(self._policy.heartbeat_seconds, timeout / 2))
            with anyio.move_on_after(timeout):
                if await process.is_alive():
                    last, num_busy = self._sign(process, pace), 0
            now = self._sign(process, pace)
            if now.at - last.at < timeout:
                continue
            was_away = now.seconds_lost - last.seconds_lost > timeout / 2
            has_worked = now.processor_seconds - last.processor_seconds > timeout * _WORKING
            if not was_away:
                num_busy += 1
                if not has_worked or num_busy > MAX_BUSY_HEARTBEATS:
                    return
            _logger.warning(
                "engine did not answer a health check: it gets another",
                extra={"was_this_process_late": was_away, "has_it_worked": has_worked},
            )
            last = now

    def _sign(self, process: EngineProcess, pace: OwnPace) -> _Sign:
        return _Sign(
            at=anyio.current_time(),
            seconds_lost=pace.seconds_lost,
            processor_seconds=0.0 if process.pid is None else self._processor_time(process.pid),
        )


def _how_it_ended(status: int) -> str:
    return f"it was ended by signal {-status}" if status < 0 else f"it ended with status {status}"
