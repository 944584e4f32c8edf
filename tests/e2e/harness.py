"""Hosts as processes, renters with wallets, and how the tests wait and count money."""

from __future__ import annotations

import itertools
import json
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio
from platformdirs import user_cache_path
from tests.anvil import mine
from tests.contract_calls import marketplace_calls
from tests.forked import run_forked, start_forked

from fabstir.chain.cheats import set_balance
from fabstir.chain.contracts import SessionJob, SessionOffer, SessionStatus
from fabstir.chain.devnet import Devnet, public_test_key
from fabstir.chain.keystore import Signer
from fabstir.chain.records import ContractCall
from fabstir.chain.transactions import MinedTransaction, TransactionQueue, open_transaction_queue
from fabstir.cli.demo import host_settings
from fabstir.cli.host_process import (
    START_TIMEOUT,
    HostProcess,
    open_host_process,
    prepare_wallet,
)
from fabstir.config import Settings, load_settings
from fabstir.db import open_database
from fabstir.primitives.errors import TransactionReverted
from fabstir.primitives.ids import NATIVE_TOKEN, Address, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei, cost_of, price_from_million
from fabstir.sdk import AsyncClient, open_async_client

PRICE_PER_MILLION = Wei(2 * 10**14)
"""What every host of these tests asks, in wei."""

PRICE = price_from_million(PRICE_PER_MILLION)

DEPOSIT = Wei(10**15)
"""Pays for five million tokens."""

RENTER_COIN = Wei(10 * 10**18)

_ERROR_LINE = re.compile(r"^\S+ (ERROR|CRITICAL) .*$|^Traceback .*$", re.MULTILINE)

T = TypeVar("T")


# -- waiting ----------------------------------------------------------------------------------


async def eventually(
    look: Callable[[], Awaitable[T | None]], *, timeout: float = 30, interval: float = 0.02
) -> T:
    """The first thing that `look` finds (anything true), or TimeoutError.

    For what announces itself to nobody: another process's log, journal and chain.
    """
    with anyio.fail_after(timeout):
        while not (found := await look()):
            await anyio.sleep(interval)
    return found


async def logged(host: HostProcess, text: str, *, timeout: float = 30) -> str:
    """The first line of the host's log that holds `text`, once it is there."""

    async def look() -> str:
        lines = await anyio.to_thread.run_sync(lambda: host.log().splitlines())
        return next((line for line in lines if text in line), "")

    return await eventually(look, timeout=timeout)


# -- hosts ------------------------------------------------------------------------------------


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(slots=True)
class HostStarter:
    """Starts `fabstir serve` on a devnet; a second start under the same name is the same host.

    Ports are chosen at the first start and kept, so that renters find a restarted host where it
    was.
    """

    devnet: Devnet
    folder: Path
    _made: dict[str, tuple[Signer, dict[str, str]]] = field(
        default_factory=dict[str, tuple[Signer, dict[str, str]]]
    )

    @asynccontextmanager
    async def __call__(
        self,
        name: str = "host",
        settings: Mapping[str, str] | None = None,
        *,
        bootstrap: Sequence[HostProcess] = (),
        expected_errors: Sequence[str] = (),
        max_open_files: int | None = None,
    ) -> AsyncGenerator[HostProcess]:
        """Run a host for the length of the block; it is killed if it still runs then.

        Args:
            settings: "section.name" to text, on top of those of a demo host.
            expected_errors: parts of ERROR lines that its log may have; any other fails the test.
            max_open_files: its limit; None: this process's.
        """
        signer = self.signer(name)
        chosen = self.settings(name, bootstrap) | dict(settings or {})
        folder = self.folder / name
        log = folder / "host.log"
        before = log.stat().st_size if log.exists() else 0
        async with open_host_process(
            folder, signer, chosen, max_open_files=max_open_files, start=start_forked
        ) as host:
            yield host
        written = log.read_bytes()[before:].decode(errors="replace")
        errors = [found.group() for found in _ERROR_LINE.finditer(written)]
        unexpected = [line for line in errors if not any(part in line for part in expected_errors)]
        assert not unexpected, f"{name} logged {unexpected}; its log ends: {written[-3000:]}"

    def settings(self, name: str, bootstrap: Sequence[HostProcess] = ()) -> dict[str, str]:
        """What a host is started with: a demo host's, but smaller and with ports of its own."""
        cache = user_cache_path("fabstir")
        demo = host_settings(self.devnet, cache, PRICE_PER_MILLION, list(bootstrap))
        return demo | self._of(name)[1]

    def signer(self, name: str) -> Signer:
        """The account of a host, started or not."""
        return self._of(name)[0]

    def _of(self, name: str) -> tuple[Signer, dict[str, str]]:
        if name not in self._made:
            fixed = {
                "host.port": str(free_port()),
                "p2p.port": str(free_port()),
                "engine.num_threads": "1",
                "engine.num_batch_threads": "1",
                "model.max_model_len": "1024",
                "chain.poll_seconds": "0.2",
            }
            self._made[name] = (self.devnet.accounts[len(self._made)], fixed)
        return self._made[name]


# -- renters ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Renter:
    """A wallet with coin, in a folder of its own, as a user of the SDK has it."""

    devnet: Devnet
    signer: Signer
    folder: Path

    async def settings(self, *hosts: HostProcess) -> Settings:
        """Its settings, in a file that another process can be given too (`settings.file`)."""
        await anyio.Path(self.folder).mkdir(parents=True, exist_ok=True)
        await prepare_wallet(self.folder, self.signer)
        config = self.folder / "config.toml"
        peers = ", ".join(f'"{host.p2p_address}"' for host in hosts)
        await anyio.Path(config).write_text(
            f'[chain]\nrpc_url = "{self.devnet.rpc_url}"\npoll_seconds = 0.2\n'
            f'deployment = "{self.devnet.deployment_path}"\n'
            f'[paths]\ndata_dir = "data"\n[p2p]\nbootstrap = [{peers}]\n'
            "[network]\nallow_private = true\n"
        )
        return load_settings(file=config, environ={})

    @asynccontextmanager
    async def open(self, *hosts: HostProcess) -> AsyncGenerator[AsyncClient]:
        """Its client, which finds these hosts; opened again it is the same renter."""
        async with open_async_client(await self.settings(*hosts)) as client:
            yield client


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """An account that speaks to the contracts itself, for clients that are not our SDK."""

    devnet: Devnet
    signer: Signer
    queue: TransactionQueue
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def send(self, call: ContractCall) -> MinedTransaction:
        """Send a transaction and wait until it is mined."""
        return await self.queue.send(f"test:{next(self._numbers)}", call)

    async def lock(
        self,
        host: HostProcess,
        *,
        to: Address | None = None,
        model: ModelId | None = None,
        deposit: Wei = DEPOSIT,
        price: PricePerToken = PRICE,
        proof_interval: int = 1000,
        proof_window: int = 3600,
        max_duration: int = 86_400,
    ) -> JobId:
        """Open a session on chain, with a host (or, `to` another one) and its first model (or
        another); returns its number.
        """
        marketplace = marketplace_calls(self.devnet)
        offer = SessionOffer(
            host=to or host.account,
            model_id=model or ModelId(str(host.models[0]["model_id"])),
            payment_token=NATIVE_TOKEN,
            deposit=deposit,
            price_per_token=price,
            max_duration=max_duration,
            proof_interval=TokenCount(proof_interval),
            proof_timeout_window=proof_window,
        )
        mined = await self.send(marketplace.create_session(offer))
        last = await marketplace.next_job_id() - 1
        job = await marketplace.session(JobId(last))
        assert job is not None
        assert job.depositor == self.signer.address, f"mined in {mined.tx_hash}, alone on its chain"
        return job.id

    async def settle_now(self, job_id: JobId) -> None:
        """Complete as the depositor, who need not wait; the host may be faster all the same."""
        with suppress(TransactionReverted):
            await self.send(self.devnet.contracts.marketplace.complete_session(job_id))
        await wait_until_over(self.devnet, job_id)


async def funded(devnet: Devnet, name: str) -> Signer:
    """A new account with coin."""
    signer = public_test_key(name)
    await set_balance(devnet.chain, signer.address, RENTER_COIN)
    return signer


@asynccontextmanager
async def open_wallet(devnet: Devnet, signer: Signer, folder: Path) -> AsyncGenerator[Wallet]:
    """Use an account, which nothing else may do at the same time."""
    async with (
        open_database(f"sqlite:///{folder}/{signer.address}.db") as db,
        open_transaction_queue(devnet.chain, signer, db) as queue,
    ):
        yield Wallet(devnet=devnet, signer=signer, queue=queue)


# -- the chain --------------------------------------------------------------------------------


async def session_of(devnet: Devnet, job_id: JobId) -> SessionJob:
    """A session as the chain has it."""
    job = await devnet.contracts.marketplace.session(job_id)
    assert job is not None, f"there is a session {job_id}"
    return job


async def wait_until_over(devnet: Devnet, job_id: JobId, *, timeout: float = 30) -> SessionJob:
    """The session, once it is settled on chain.

    Makes a block at each look, as real chains do by themselves: windows count in their time.
    """

    async def look() -> SessionJob | None:
        job = await session_of(devnet, job_id)
        if job.status is not SessionStatus.ACTIVE:
            return job
        await mine(devnet.chain)
        return None

    return await eventually(look, timeout=timeout, interval=0.25)


async def check_money(devnet: Devnet, job_id: JobId, tokens: int) -> None:
    """The session is over, paid exactly `tokens`, and nothing of any deposit is missing or locked.

    What the treasury got for one session is nowhere on chain: all sessions are added up.
    """
    job = await session_of(devnet, job_id)
    assert job.status is not SessionStatus.ACTIVE
    assert job.tokens_used == tokens
    assert job.refunded_to_user == job.deposit - cost_of(job.tokens_used, job.price_per_token)
    marketplace = marketplace_calls(devnet)
    assert await marketplace.locked_balance(job.depositor, job.payment_token) == 0
    fees = 0
    for number in range(1, await marketplace.next_job_id()):
        each = await session_of(devnet, JobId(number))
        if each.status is not SessionStatus.ACTIVE and each.payment_token == job.payment_token:
            fees += each.deposit - each.withdrawn_by_host - each.refunded_to_user
    assert fees == await marketplace.treasury_accumulated(job.payment_token)


async def encryption_key_of(devnet: Devnet, host: HostProcess) -> bytes:
    """The key to which handshakes with the host are encrypted, from the registry."""
    node = await devnet.contracts.nodes.node(host.account)
    assert node is not None
    key = bytes.fromhex(json.loads(node.metadata)["publicKey"])
    assert len(key) == 33
    return key


# -- a host that does not start ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended."""

    status: int
    said: str
    """On stderr, without the line breaks of the terminal."""


async def serve_and_fail(
    folder: Path, signer: Signer, settings: Mapping[str, str], *, is_confirmed: bool = True
) -> Ended:
    """Run `fabstir serve` until it ends by itself, which it must do soon."""
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    await prepare_wallet(folder, signer)
    config = anyio.Path(folder / "config.toml")
    await config.touch()
    chosen = {"paths.data_dir": str(folder / "data"), **settings}
    arguments = ["--config", str(config)]
    arguments += [f"--set={name}={value}" for name, value in chosen.items()]
    arguments += ["serve", "--yes"] if is_confirmed else ["serve"]
    with anyio.fail_after(START_TIMEOUT):
        ended = await run_forked(arguments)
    said = " ".join(ended.stderr.decode().split())
    assert "Traceback" not in said, said
    return Ended(status=ended.returncode, said=said)


# -- processes --------------------------------------------------------------------------------


def descendants(pid: int) -> dict[int, str]:
    """The processes that a process started, and theirs, by id with their command lines."""
    found: dict[int, str] = {}
    for task in Path("/proc", str(pid), "task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path("/proc", child, "cmdline").read_bytes().replace(b"\0", b" ").decode()
            found |= {int(child): command, **descendants(int(child))}
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
