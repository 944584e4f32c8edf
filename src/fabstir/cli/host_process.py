"""A host as a process of its own, on a devnet: what the demo and the end-to-end tests run.

It is `fabstir serve`, started as its owner would, with a config file, a keystore and a password
file in a folder of its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import anyio

from fabstir.chain.anvil import die_with_parent
from fabstir.chain.keystore import Signer, import_keystore, write_secret_file
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import Address
from fabstir.telemetry.background import to_its_end

START_TIMEOUT = 180.0
"""Seconds: the first start of a machine also measures thread counts."""

STOP_TIMEOUT = 120.0
"""Seconds for a host to finish, prove and settle."""

_DEV_PASSWORD = "devnet"  # noqa: S105 - of a key that is public anyway
_DEV_SCRYPT_N = 2**12


class FabstirProcess(Protocol):
    """A process: asyncio's, or one that the tests fork."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        ...

    @property
    def stdout(self) -> AsyncIterable[bytes] | None:
        """What it writes, in pieces of any size."""
        ...

    def send_signal(self, signal: signal.Signals, /) -> None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int:
        """Returns the exit status."""
        ...


StartFabstir = Callable[[Sequence[str], IO[bytes], int | None], Awaitable[FabstirProcess]]
"""Starts `fabstir` with these arguments, a file for standard error and a limit of open files; in a
session of its own, with a pipe for standard output, and so that it dies when this process does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProcess:
    """A host that serves, in another process.

    Attributes:
        folder: its config, keys, journal and log (`host.log`).
        facts: what `fabstir serve --json` says when it is ready.
    """

    process: FabstirProcess
    folder: Path
    account: Address
    facts: Mapping[str, Any]

    @property
    def api_url(self) -> str:
        """Where its doors are."""
        return str(self.facts["api_url"])

    @property
    def p2p_address(self) -> str:
        """A multiaddr to bootstrap from."""
        return str(self.facts["p2p_addresses"][0])

    @property
    def models(self) -> Sequence[Mapping[str, Any]]:
        """Of each that it serves: model_id, model, max_model_len, num_slots, engine."""
        models: Sequence[Mapping[str, Any]] = self.facts["models"]
        return models

    @property
    def data_dir(self) -> Path:
        """Its journal's folder."""
        return self.folder / "data"

    def log(self) -> str:
        """What it logged so far."""
        return (self.folder / "host.log").read_text(errors="replace")

    async def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM: drain; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(STOP_TIMEOUT):
            return await self.process.wait()


async def prepare_wallet(folder: Path, signer: Signer) -> None:
    """Put a devnet account's keystore and password file where the settings expect them."""
    if not await anyio.Path(folder / "wallet.json").exists():
        write_secret_file(folder / "wallet.password", _DEV_PASSWORD)
        await import_keystore(
            folder / "wallet.json", signer.secret_key, _DEV_PASSWORD, scrypt_n=_DEV_SCRYPT_N
        )


async def start_fabstir(
    arguments: Sequence[str], stderr: IO[bytes], max_open_files: int | None
) -> FabstirProcess:
    """See `StartFabstir`: by this Python, from its beginning."""
    # asyncio's own call: anyio's has no way to run code in the child before the program.
    return await to_its_end(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fabstir", *arguments),
            stdout=PIPE,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_in_child(max_open_files),
        )
    )


@asynccontextmanager
async def open_host_process(
    folder: Path,
    signer: Signer,
    settings: Mapping[str, str],
    *,
    max_open_files: int | None = None,
    start: StartFabstir = start_fabstir,
) -> AsyncGenerator[HostProcess]:
    """Run `fabstir serve` until the block is left; it is then killed if it still runs.

    Args:
        folder: made if it is new; a second start in the same folder is the same host again.
        settings: "section.name" to text, as for --set.
        max_open_files: the limit of the process, which it cannot raise; None: ours.

    Raises:
        ConfigError: it did not become ready; the text ends with its log.
    """
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    await prepare_wallet(folder, signer)
    config = folder / "config.toml"
    await anyio.Path(config).touch()
    options = [f"--set={name}={value}" for name, value in settings.items()]
    arguments = [
        *("--config", str(config), "--json", "--log-level", "info"),
        *(f"--set=paths.data_dir={folder / 'data'}", *options),
        *("serve", "--yes"),
    ]
    log = await anyio.to_thread.run_sync(lambda: (folder / "host.log").open("ab"))
    with log:
        process = await start(arguments, log, max_open_files)
    try:
        facts = await _facts(process, folder)
        yield HostProcess(process=process, folder=folder, account=signer.address, facts=facts)
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.wait()


def _in_child(max_open_files: int | None) -> Callable[[], None]:
    """What the child runs before the program."""
    die = die_with_parent()

    def prepare() -> None:
        if die is not None:
            die()
        if max_open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max_open_files, max_open_files))

    return prepare


async def _facts(process: FabstirProcess, folder: Path) -> Mapping[str, Any]:
    """Read until the JSON that says it is ready is complete."""
    assert process.stdout is not None, "opened with a pipe"
    said = b""
    with anyio.move_on_after(START_TIMEOUT):
        async for piece in process.stdout:
            said += piece
            if said.endswith(b"\n}\n"):  # the end of indented JSON
                facts: Mapping[str, Any] = json.loads(said)
                return facts
    log = " | ".join((folder / "host.log").read_text(errors="replace")[-2000:].splitlines())
    raise ConfigError(f"the host in {folder} did not start; its log ends: {log}")
