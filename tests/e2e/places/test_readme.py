"""README's commands in the order in which they stand, as somebody pastes them."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from tests.e2e.places.conftest import Place
from tests.terminal import TIMEOUT, Terminal, terminal

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.needs("curl")]

ROOT = Path(__file__).resolve().parents[3]
END_OF_INPUT = b"\x04"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def blocks_of(text: str) -> list[str]:
    """What is to be pasted into a terminal, a block a time."""
    return re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def programs_of(text: str) -> list[str]:
    """What is to be saved and run."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands_of(block: str) -> list[str]:
    """Its commands, each on one line and without its comment."""
    lines = block.replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"\s+#.*", "", line).strip())]


@dataclass(slots=True)
class Reader:
    """Somebody with one terminal for each thing that keeps running."""

    place: Place
    stack: AsyncExitStack
    ports: dict[str, int]
    keys: list[str] = field(default_factory=list[str])
    bootstrap: str = ""

    async def open(self, command: str) -> tuple[Terminal, anyio.abc.Process]:
        return await self.stack.enter_async_context(
            terminal(
                ["/bin/bash", "-c", f"exec {command}"],
                environment=self.place.environment(),
                cwd=self.place.home,
            )
        )

    async def ended(self, process: anyio.abc.Process) -> None:
        with anyio.fail_after(TIMEOUT):
            assert await process.wait() == 0

    async def paste(self, command: str) -> None:
        """Do what the command wants until it ends, or for as long as it is needed."""
        match command.split()[-2:]:
            case [_, "devnet"]:
                await self.devnet(command)
            case ["keys", "import"]:
                await self.import_key(command)
            case ["s5", "serve"]:
                screen, _ = await self.open(command)
                await screen.see("Ctrl-C")
            case [_, "serve"]:
                await self.serve(command)
            case [_, "chat"]:
                await self.chat(command)
            case [_, "ask.py"]:
                await self.ask(command)
            case _:
                _, process = await self.open(command.replace("9000/p2p/...", self.bootstrap))
                await self.ended(process)

    async def devnet(self, command: str) -> None:
        screen, _ = await self.open(f"{command} --port {self.ports['chain']}")
        said = await screen.see("Ctrl-C ends the chain")
        self.keys = re.findall(r"account \d .*key (0x[0-9a-f]{64})", said)

    async def import_key(self, command: str) -> None:
        screen, process = await self.open(command)
        # With its blank, which comes once the terminal shows no more what is typed.
        await screen.see("Private key (hex): ")
        screen.type(f"{self.keys.pop(0)}\n".encode())
        await screen.see("Password (empty: a random one): ")
        screen.type(b"\n")
        await screen.see("Repeat for confirmation: ")
        screen.type(b"\n")
        await screen.see("password file")
        await self.ended(process)

    async def serve(self, command: str) -> None:
        screen, _ = await self.open(command)
        await screen.see("Stake and register now")
        screen.type(b"y\n")
        await screen.see("p2p.bootstrap=/ip4/127.0.0.1/tcp/")
        self.bootstrap = re.split(r"[\x1b\r]", await screen.see("\n"))[0]

    async def chat(self, command: str) -> None:
        screen, process = await self.open(command)
        await screen.see("Lock 0.001 ETH?")
        screen.type(b"y\n")
        await screen.see("twice leaves and settles")
        await screen.see("you")
        screen.type(b"What is the capital of Italy? Answer in one sentence.\n")
        await screen.see("tokens \u00b7")
        await screen.see("you")
        screen.type(END_OF_INPUT)
        await screen.see("refund")
        await self.ended(process)

    async def ask(self, command: str) -> None:
        screen, process = await self.open(f"env {command}")
        await screen.see(" tokens: 0.0")
        await screen.see("back: 0.000")
        await self.ended(process)


@pytest.fixture
def place() -> Iterator[Place]:
    """With a short path: the names of sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fabstir-") as home:
        yield Place(Path(home))


async def test_every_block_works_in_its_turn(place: Place, demo_model: Path) -> None:
    ports = {"chain": free_port(), "s5": free_port()}
    variables = {
        "FABSTIR_CHAIN_RPC_URL": f"http://127.0.0.1:{ports['chain']}",
        "FABSTIR_S5_PORT": str(ports["s5"]),
        "FABSTIR_HOST_PORT": "0",
        "FABSTIR_P2P_PORT": "0",
        "FABSTIR_METRICS_PORT": "0",
        "FABSTIR_MODEL_PATH": str(demo_model),
        "FABSTIR_ENGINE_NUM_THREADS": "1",  # not measured: other tests have the other core
        "NO_COLOR": "1",
    }
    place.variables.update(variables)
    (place.home / ".venv").symlink_to(ROOT / ".venv")
    text = (ROOT / "README.md").read_text("utf-8")
    (place.home / "README.md").write_text(text, "utf-8")
    (program,) = programs_of(text)
    (place.home / "ask.py").write_text(program, "utf-8")
    make, *talk, files, over_http = blocks_of(text)

    async with AsyncExitStack() as stack:
        reader = Reader(place, stack, ports)
        for block in talk:
            for command in commands_of(block):
                await reader.paste(command)
    async with AsyncExitStack() as stack:
        reader = Reader(place, stack, ports)
        for command in commands_of(files):
            await reader.paste(command)
        pasted = f"set -e\n{over_http}".replace("5522", str(ports["s5"])).replace(
            "curl", "curl -sSf"
        )
        _, process = await reader.open(f"bash -c '{pasted}'")
        await reader.ended(process)

    assert commands_of(make) == ["make demo", "make test"]
    assert len(talk) == 6
