"""`fabstir s5 serve` as a process of its own, to be asked, stopped and killed."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fabstir.chain.anvil import die_with_parent
from fabstir.cli.app import run

STOP_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class S5Process:
    """A node that serves, in another process.

    Attributes:
        facts: what `fabstir s5 serve --json` says when it is ready.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    facts: Mapping[str, Any]

    @property
    def url(self) -> str:
        """Of its HTTP doors."""
        return str(self.facts["s5_local_url"])

    @property
    def p2p_uri(self) -> str:
        """For the setting s5.peers of others."""
        return str(self.facts["s5_p2p_uri"])

    @property
    def headers(self) -> dict[str, str]:
        """Its owner's."""
        token = Path(self.facts["s5_token_file"]).read_text(encoding="ascii").strip()
        return {"Authorization": f"Bearer {token}"}

    def client(self) -> httpx.Client:
        """HTTP as its owner."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=30)

    def log(self) -> str:
        """What it logged so far."""
        return (self.folder / "s5.log").read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)

    def stop(self) -> int:
        """SIGTERM: an orderly end; returns the exit status."""
        self.process.terminate()
        return self.process.wait(STOP_TIMEOUT)


def options(folder: Path, settings: Mapping[str, str]) -> list[str]:
    """Global options of a node in a folder; `settings` are of the section [s5]."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").touch()
    chosen = {"paths.data_dir": str(folder / "data"), "metrics.port": "0", "s5.port": "0"}
    chosen |= {f"s5.{name}": value for name, value in settings.items()}
    flags = [f"--set={name}={value}" for name, value in chosen.items()]
    return [f"--config={folder / 'config.toml'}", *flags]


@contextmanager
def s5_process(folder: Path, **settings: str) -> Generator[S5Process]:
    """Run `fabstir s5 serve` for the length of the block; it is killed if it still runs then."""
    command = [sys.executable, "-m", "fabstir", *options(folder, settings), "--json"]
    with (folder / "s5.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--log-level=info", "s5", "serve"],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent(),
        )
    try:
        yield S5Process(process, folder, _facts(process, folder))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_TIMEOUT)
        assert process.stdout is not None
        process.stdout.close()


def _facts(process: subprocess.Popen[bytes], folder: Path) -> Mapping[str, Any]:
    """Read until the JSON that says it is ready is complete."""
    assert process.stdout is not None
    said: list[bytes] = []
    for line in process.stdout:
        said.append(line)
        if line == b"}\n":
            return json.loads(b"".join(said))
    raise AssertionError(f"the node did not start: {(folder / 's5.log').read_text()[-2000:]}")


def run_cli(node_folder: Path, *args: str) -> tuple[int, Any, str]:
    """A command, in this process: exit code, JSON or text, and what it said on stderr."""
    out, said = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(said):
        code = run([*options(node_folder, {}), "--json", "s5", *args])
    text = out.getvalue()
    return code, json.loads(text) if text.startswith("{") else text, said.getvalue()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
