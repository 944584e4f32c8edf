"""A host under attack from one address, with 1,024 descriptors, while an honest renter talks.

The short form is in the gate; `make test-hostile` runs the full one and prints its figures.
"""

from __future__ import annotations

import json
import secrets
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from tests.e2e.harness import (
    DEPOSIT,
    HostStarter,
    Renter,
    eventually,
    is_running,
)
from tests.e2e.hostile.attacker import HELLO, SOURCE, Orders
from tests.e2e.raw_client import open_raw_client
from tests.tables import Table, printed_table

from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.content import Message
from fabstir.protocol.frames import encode_frame
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk.events import Text
from fabstir.sdk.session import AsyncSession

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

NUM_DESCRIPTORS: Final = 1024

ANSWER_SECONDS: Final = 30.0
"""An honest renter is answered within this long, however loaded the machine is."""

STOP_SECONDS: Final = 40.0
"""From SIGTERM to the end, with clients attached that read nothing."""

SPARE_FILES: Final = 16
"""That a host may have open more when an attack is over: the chain's and the store's own."""

MAX_GROWTH_BYTES: Final = 256 << 20

ATTACK_SECONDS: Final = 3.0
"""Until an attack has taken what it can, before the host is told to end."""

EVERYTHING: Final = {
    "silent": 1100,
    "idle_websocket": 961,
    "half_head": 60,
    "half_frame": 60,
    "long_body": 8,
    "endless_body": 8,
    "init_flood": 8,
    "garbage": 4,
    "pings": 8,
    "unread_download": 60,
    "silent_peer": 100,
    "silent_s5": 100,
    "passing_peer": 50,
    "silent_libp2p": 200,
}
A_TENTH: Final = {kind: max(4, count // 10) for kind, count in EVERYTHING.items()}

PROMPT: Final = [Message("user", "Name a fruit.")]
GREEDY: Final = SamplingParams(max_tokens=TokenCount(8), temperature=0)


@dataclass(slots=True)
class Watch:
    """What a process has: its memory and its open files, now and at most."""

    pid: int
    max_bytes: int = 0
    max_files: int = 0

    def look(self) -> tuple[int, int]:
        pages = int(Path("/proc", str(self.pid), "statm").read_text().split()[1])
        num_bytes, num_files = pages * 4096, len(list(Path("/proc", str(self.pid), "fd").iterdir()))
        self.max_bytes = max(self.max_bytes, num_bytes)
        self.max_files = max(self.max_files, num_files)
        return num_bytes, num_files

    async def run(self) -> None:
        while True:
            self.look()
            await anyio.sleep(0.1)


@dataclass(slots=True)
class Latencies:
    """Seconds for an answer."""

    before: list[float] = field(default_factory=list[float])
    during: list[float] = field(default_factory=list[float])

    def show(self, table: Table) -> None:
        for name, seconds in (("before", self.before), ("during", self.during)):
            table.add(
                f"{len(seconds)} answers {name}",
                f"median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s",
            )
        ratio = statistics.median(self.during) / statistics.median(self.before)
        table.add("ratio of the medians", f"{ratio:.1f}")


async def ask(session: AsyncSession) -> float:
    """Seconds for one answer."""
    started, num_tokens = time.monotonic(), 0
    with anyio.fail_after(ANSWER_SECONDS):
        async with session.chat(PROMPT, sampling=GREEDY) as answer:
            async for event in answer:
                num_tokens += event.num_tokens if isinstance(event, Text) else 0
    assert num_tokens > 0
    return time.monotonic() - started


async def orders_for(host: HostProcess, devnet: Devnet, counts: dict[str, int]) -> Orders:
    """What the attacker is told, with a blob to download and handshakes to send."""
    token = Path(str(host.facts["s5_token_file"])).read_text().strip()
    async with httpx.AsyncClient(base_url=str(host.facts["s5_local_url"])) as client:
        uploaded = await client.post(
            "/s5/upload",
            content=secrets.token_bytes(16 << 20),
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
    async with open_raw_client(host, devnet) as client:
        inits = [
            encode_frame(client.make_init(JobId(10**6 + number), secrets.token_bytes(32)).frame)
            for number in range(200)
        ]
    ports = {
        "api": urlsplit(host.api_url).port or 0,
        "s5": urlsplit(str(host.facts["s5_local_url"])).port or 0,
        "p2p": int(host.p2p_address.split("/tcp/")[1].split("/")[0]),
    }
    blob = f"/s5/blob/{uploaded.json()['cid']}"
    return Orders(ports=ports, counts=counts, inits=inits, blob=blob)


async def pass_by(orders: Orders, count: int, table: Table) -> None:
    """Connections to libp2p, one after another, each of which says hello and leaves."""
    started, num_answered = time.monotonic(), 0
    for _ in range(count):
        try:
            with anyio.move_on_after(2):
                async with await anyio.connect_tcp(
                    "127.0.0.1", orders.ports["p2p"], local_host=SOURCE
                ) as stream:
                    await stream.send(HELLO)
                    num_answered += bool(await stream.receive())
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            continue  # refused, which is an answer too
    seconds = time.monotonic() - started
    table.add(f"{count} libp2p connections in a row", f"{num_answered} answered, {seconds:.1f} s")


@asynccontextmanager
async def attacked(orders: Orders, table: Table) -> AsyncGenerator[None]:
    """Attack for the length of the block."""
    command = [sys.executable, str(Path(__file__).with_name("attacker.py"))]
    async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send(orders.encode())
        yield
        process.terminate()
        report: dict[str, int] = json.loads(b"".join([piece async for piece in process.stdout]))
        opened = ", ".join(f"{count} {kind}" for kind, count in report.items())
        table.add("connections opened", opened)


async def settled_files(watch: Watch, most: int) -> int:
    """How many files are open when the attacker has gone."""

    async def look() -> int:
        _num_bytes, num_files = watch.look()
        return num_files if num_files <= most else 0

    return await eventually(look, timeout=45, interval=0.2)


async def talk_under_attack(
    host: HostProcess, session: AsyncSession, orders: Orders, num_answers: int, table: Table
) -> None:
    """An honest renter before, during and after."""
    watch, latencies = Watch(host.process.pid), Latencies()
    latencies.before = [await ask(session) for _ in range(num_answers)]
    bytes_before, files_before = watch.look()
    files_after, health = 0, dict[str, object]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        async with attacked(orders, table):
            latencies.during = [await ask(session) for _ in range(num_answers)]
            health = await anyio.to_thread.run_sync(
                lambda: httpx.get(f"{host.api_url}/v1/health", timeout=10).json()
            )
            latencies.during += [await ask(session) for _ in range(num_answers)]
        files_after = await settled_files(watch, files_before + SPARE_FILES)
        tasks.cancel_scope.cancel()
    bytes_after, _files = watch.look()
    latencies.show(table)
    mib = [f"{number / (1 << 20):.0f}" for number in (bytes_before, watch.max_bytes, bytes_after)]
    table.add("memory before, at most, after", f"{' / '.join(mib)} MiB")
    files = f"{files_before} / {watch.max_files} / {files_after} of {NUM_DESCRIPTORS}"
    table.add("open files before, at most, after", files)
    assert health["status"] != "unhealthy", health
    assert watch.max_files < NUM_DESCRIPTORS
    assert watch.max_bytes - bytes_before < MAX_GROWTH_BYTES


async def attack_and_talk(
    start_host: HostStarter,
    devnet: Devnet,
    renter: Renter,
    counts: dict[str, int],
    num_answers: int,
    num_passing: int,
    table: Table,
) -> None:
    async with start_host("attacked", max_open_files=NUM_DESCRIPTORS) as host:
        orders = await orders_for(host, devnet, counts)
        await pass_by(orders, num_passing, table)
        async with renter.open(host) as client:
            (offer,) = await client.find_hosts()
            async with client.open_session(offer, deposit=DEPOSIT) as session:
                await talk_under_attack(host, session, orders, num_answers, table)
                async with (
                    attacked(orders, table),
                    client.open_session(offer, deposit=DEPOSIT) as another,
                ):
                    table.add("a new session under attack", f"{await ask(another):.2f} s")
                    await another.close()
                await session.close()
        async with renter.open(host) as client:  # by libp2p, from nothing
            assert [found.host for found in await client.find_hosts()] == [host.account]
        async with attacked(orders, table):
            await anyio.sleep(ATTACK_SECONDS)
            started = time.monotonic()
            status = await host.stop()
            seconds = time.monotonic() - started
        table.add("end after SIGTERM under attack", f"{seconds:.1f} s, status {status}")
        assert not is_running(host.process.pid)
    assert status == 0
    assert seconds < STOP_SECONDS


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Generator[Table]:
    with printed_table(request, "figures of a host under attack", "measured", "") as made:
        yield made


async def test_an_honest_renter_is_served_under_attack(
    start_host: HostStarter, devnet: Devnet, renter: Renter, table: Table
) -> None:
    await attack_and_talk(start_host, devnet, renter, A_TENTH, 3, 100, table)


@pytest.mark.heavy
@pytest.mark.timeout(900)
async def test_an_honest_renter_is_served_under_a_whole_attack(
    start_host: HostStarter, devnet: Devnet, renter: Renter, table: Table
) -> None:
    await attack_and_talk(start_host, devnet, renter, EVERYTHING, 15, 1000, table)
