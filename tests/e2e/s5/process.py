"""`fabstir s5 serve` as a process of its own, to be asked, stopped and killed."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import IO, Any, TypeVar

import httpx
from tests.forked import Forked, fork

from fabstir.cli.app import run

STOP_TIMEOUT = 30.0

T = TypeVar("T")


class Log:
    """What a process says on stderr: kept in a file, and waited for."""

    def __init__(self, stream: IO[bytes], file: Path) -> None:
        self._stream = stream
        self._file = file
        self._lines: list[str] = []
        self._is_over = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def num_lines(self) -> int:
        """So far."""
        return len(self._lines)

    def wait_for(self, text: str, *, after: int = 0, timeout: float = 40) -> None:
        """Until a line has `text`; `after` so many lines."""

        def is_said() -> bool:
            return self._is_over or any(text in line for line in self._lines[after:])

        with self._changed:
            is_in_time = self._changed.wait_for(is_said, timeout)
        assert is_in_time, f"{text!r} was not logged: {self._lines[-20:]}"
        assert not self._is_over, f"it ended before it logged {text!r}: {self._lines[-20:]}"

    def close(self) -> None:
        """When the process has ended."""
        self._reader.join()
        self._stream.close()

    def _read(self) -> None:
        with self._file.open("ab", buffering=0) as file:
            for line in self._stream:
                file.write(line)
                with self._changed:
                    self._lines.append(line.decode(errors="replace"))
                    self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class S5Process:
    """A node that serves, in another process.

    Attributes:
        says: its log since it started.
        facts: what `fabstir s5 serve --json` says when it is ready.
    """

    process: Forked
    folder: Path
    says: Log
    facts: Mapping[str, Any]

    def until(self, look: Callable[[], T | None], *, told_by: str, timeout: float = 40) -> T:
        """The first thing that `look` finds (anything true): now, or after a line with `told_by`,
        which the node logs once there is something new to find."""
        deadline = time.monotonic() + timeout
        while True:
            num_lines = self.says.num_lines
            if found := look():
                return found
            left = deadline - time.monotonic()
            self.says.wait_for(told_by, after=num_lines, timeout=left)

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
    chosen["network.allow_private"] = "true"
    chosen |= {f"s5.{name}": value for name, value in settings.items()}
    flags = [f"--set={name}={value}" for name, value in chosen.items()]
    return [f"--config={folder / 'config.toml'}", *flags]


@contextmanager
def s5_process(folder: Path, **settings: str) -> Generator[S5Process]:
    """Run `fabstir s5 serve` for the length of the block; it is killed if it still runs then."""
    arguments = [*options(folder, settings), "--json", "--log-level=info", "s5", "serve"]
    process = fork(arguments, stdin=DEVNULL)
    says = Log(os.fdopen(process.pipes[2], "rb"), folder / "s5.log")
    try:
        with os.fdopen(process.pipes[1], "rb") as output:
            yield S5Process(process, folder, says, _facts(output, folder))
    finally:
        process.kill()
        process.wait(STOP_TIMEOUT)
        says.close()


def _facts(output: IO[bytes], folder: Path) -> Mapping[str, Any]:
    """Read until the JSON that says it is ready is complete."""
    said: list[bytes] = []
    for line in output:
        said.append(line)
        if line == b"}\n":
            return json.loads(b"".join(said))
    raise AssertionError(f"the node did not start: {(folder / 's5.log').read_text()[-2000:]}")


def eventually(look: Callable[[], T | None], *, timeout: float = 40) -> T:
    """The first thing that `look` finds (anything true), by asking a node again and again: for what
    arrives without a word, such as an entry from a peer. `S5Process.until` waits for a log line."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
    return found


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
