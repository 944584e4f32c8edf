"""Keeping one engine running: watched, started again after a crash, given up after many."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio

from fabstir.engines._http import EngineAddress, EngineRefused, is_exhausted
from fabstir.engines._process import (
    CannotStart,
    LlamaCppConfig,
    RunningChild,
    ThreadCounts,
    open_child,
)
from fabstir.engines.engine import EngineState
from fabstir.primitives.errors import EngineError, EngineUnavailable
from fabstir.telemetry.background import running

_logger = logging.getLogger(__name__)

STEADY_SECONDS: Final = 60.0
"""An engine that ran this long has earned its restarts back."""

_HEARTBEAT_SECONDS = 2.0


class Supervisor:
    """Keeps one engine running: `address` is where it answers now, if it does."""

    def __init__(self, config: LlamaCppConfig, threads: ThreadCounts) -> None:
        self._config = config
        self._threads = threads
        self._child: RunningChild | None = None
        self._state = EngineState.LOADING
        self._reason = "the model is being loaded"

    @property
    def state(self) -> EngineState:
        """Whether it can answer now."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The child's, for as long as it answers."""
        return self._child.pid if self._child else None

    def address(self) -> EngineAddress:
        """Raises EngineUnavailable, with the reason."""
        if self._child is None:
            fix = "start the host again" if self._state is EngineState.FAILED else "try again soon"
            raise EngineUnavailable(f"the engine is {self._state} ({self._reason}): {fix}")
        return self._child.address

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Until cancelled, or until the engine crashed too often.

        Raises:
            EngineUnavailable: the very first start failed.
        """
        num_crashes = 0
        while True:
            started = time.monotonic()
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
            num_crashes = 0 if time.monotonic() - started > STEADY_SECONDS else num_crashes
            if num_crashes == len(self._config.restart_delays):
                self._state = EngineState.FAILED
                _logger.error("engine keeps crashing: left down", extra={"reason": self._reason})
                return
            self._state = EngineState.RESTARTING
            _logger.warning("engine died: starting it again", extra={"reason": self._reason})
            await anyio.sleep(self._config.restart_delays[num_crashes])
            num_crashes += 1

    async def _wait_for_the_machine(self, error: CannotStart) -> None:
        """It is no fault of the engine's that it cannot be started: that is tried for ever."""
        self._state, self._reason = EngineState.RESTARTING, str(error)
        _logger.warning("the engine cannot be started yet", extra={"reason": str(error)})
        await anyio.sleep(self._config.restart_delays[-1] if self._config.restart_delays else 1.0)

    async def _run_once(self, on_ready: Callable[[], None]) -> None:
        async with open_child(self._config, self._threads) as child:
            self._child, self._state = child, EngineState.READY
            self._reason = ""
            on_ready()
            try:
                async with running(partial(self._kill_if_hung, child)):
                    status = await child.wait()
            finally:
                self._child = None
        self._reason = self._reason or _how_it_ended(status)

    async def _kill_if_hung(self, child: RunningChild) -> None:
        """A child that hangs would hold its requests for ever; killed, it fails them by name.

        /health is answered beside decoding, so a long prompt does not look like a hang.
        """
        timeout = self._config.heartbeat_timeout
        last_sign = time.monotonic()
        while time.monotonic() - last_sign < timeout:
            await anyio.sleep(min(_HEARTBEAT_SECONDS, timeout / 2))
            try:
                with anyio.fail_after(timeout):
                    await child.address.get_json("/health")
            except (EngineError, EngineRefused, TimeoutError) as error:
                if not is_exhausted(error):  # then nobody knows how it does
                    continue
            last_sign = time.monotonic()
        self._reason = f"it hung: no answer to a health check in {timeout:g} s"
        child.kill()


def _how_it_ended(status: int) -> str:
    return f"it was ended by signal {-status}" if status < 0 else f"it ended with status {status}"
