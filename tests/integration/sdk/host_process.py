"""A host as a process of its own, to be killed and stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from tests.forked import open_forked

START_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A running `fabstir serve`."""

    process: Process
    p2p_address: str

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def open_host_process(home: Path, overrides: dict[str, str]) -> AsyncGenerator[HostProcess]:
    """Run `fabstir serve` in a folder with a wallet until the block is left; it is killed then."""
    flags = [f"--set={name}={value}" for name, value in overrides.items()]
    arguments = ["serve", "--yes", "--json", f"--config={home / 'config.toml'}", *flags]
    with (home / "stderr.log").open("ab") as log:
        process = await open_forked(arguments, stdin=DEVNULL, stderr=log)
    try:
        with anyio.fail_after(START_TIMEOUT):
            facts = await _read_json(process)
        yield HostProcess(process, facts["p2p_addresses"][0])
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()  # a stopped one, too
            await process.aclose()


async def _read_json(process: Process) -> dict[str, list[str]]:
    assert process.stdout is not None
    text = ""
    async for piece in TextReceiveStream(process.stdout):
        text += piece
        if text.endswith("}\n"):
            return json.loads(text)
    raise AssertionError(f"the host ended while starting; its output was {text!r}")
