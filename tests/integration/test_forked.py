"""A forked `fabstir` is what a started one is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL

import anyio
import pytest
from tests.forked import open_forked, run_forked

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

COMMANDS = (
    ("--version",),
    ("config", "show"),
    ("--config", "of this folder.toml", "config", "show", "--json"),
    ("config", "set", "host.port=none"),
    ("keys", "show", "--log-level", "info"),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
async def test_it_says_and_ends_as_if_it_had_been_started(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FABSTIR_P2P_PORT", "4321")
    (tmp_path / "of this folder.toml").write_text("[host]\nport = 1234\n")

    started = subprocess.run(
        [sys.executable, "-m", "fabstir", *arguments], capture_output=True, stdin=DEVNULL
    )
    forked = await run_forked(arguments)

    assert forked.stdout.decode() == started.stdout.decode()
    assert forked.stderr.decode() == started.stderr.decode()
    assert forked.returncode == started.returncode


async def test_it_reads_what_it_is_given() -> None:
    done = await run_forked(["keys", "import", "-"], given=b"no key\n")

    assert (done.returncode, done.stdout) == (2, b"")
    assert b"no key" not in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0)])
async def test_it_is_a_process_of_its_own(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    async with await open_forked(
        [f"--set=paths.data_dir={tmp_path}", "--json", "devnet", "--port=0"],
        is_new_session=True,
        max_open_files=321,
    ) as process:
        assert process.stdout is not None
        facts = await process.stdout.receive()
        assert b"rpc_url" in facts
        assert process.returncode is None
        assert os.getsid(process.pid) == process.pid
        assert "Max open files            321                  321" in _limits(process.pid)

        process.send_signal(number)
        with anyio.fail_after(30):
            assert await process.wait() == status

        assert process.returncode == status
        assert not Path("/proc", str(process.pid)).exists()


def _limits(pid: int) -> str:
    return Path("/proc", str(pid), "limits").read_text()
