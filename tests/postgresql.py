"""Debian's PostgreSQL server, started by the tests on a free port, as a user that is not root."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

BINARIES: Final = tuple(
    str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
)
"""Debian keeps the server's programs out of PATH, by version; the newest first."""

POSTGRESQL: Final = pytest.param("postgresql", marks=pytest.mark.needs("initdb"))
"""Of a fixture that is "sqlite", too."""

PASSWORD: Final = "correct horse"

_READY = "database system is ready to accept connections"

_ACCESS: Final = """\
host all locked 127.0.0.1/32 scram-sha-256
host all all    127.0.0.1/32 trust
"""


def find_program(name: str) -> str | None:
    """A program on PATH, or one of the server's."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(BINARIES))


def _as_user() -> list[str]:
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return []
    user = _user()
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


def _user() -> pwd.struct_passwd:
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


@dataclass(slots=True)
class PostgresServer:
    """One cluster; it can be stopped, killed and started again on its port. Made by `open_server`.

    Has a user `fabstir`, who owns the database `fabstir`, and one `locked`, who needs a password.
    """

    folder: Path
    port: int
    _process: subprocess.Popen[str] | None = None
    _names: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        """Until it answers; at once where it runs already."""
        if self._process is not None:
            return
        command = [*_as_user(), _program("postgres"), "-D", str(self.folder), "-p", str(self.port)]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd="/"
        )
        assert self._process.stderr is not None
        said: list[str] = []
        for line in self._process.stderr:
            said.append(line)
            if _READY in line:
                break
        else:
            raise AssertionError(f"the server did not start: {''.join(said)}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: ends all sessions, and loses nothing. SIGQUIT: as a crash of the server."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.communicate()

    def url(
        self, *, user: str = "fabstir", schema: str | None = None, port: int | None = None
    ) -> str:
        """A schema that nobody has used yet, unless it is named; by way of another port, too."""
        name = schema or f"test_{next(self._names)}"
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/fabstir?schema={name}"

    def sql(self, statement: str, database: str = "fabstir", user: str = "postgres") -> str:
        """What psql prints, without headings."""
        command = [_program("psql"), "-XAtq", "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["-U", user, "-d", database, "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _program(name: str) -> str:
    found = find_program(name)
    assert found, f"{name} is not installed"
    return found


@contextmanager
def open_server() -> Generator[PostgresServer]:
    """Run a cluster of its own for the length of the block."""
    user = _user()
    with tempfile.TemporaryDirectory(prefix="fabstir-pg-") as name:
        root = Path(name)
        os.chown(root, user.pw_uid, user.pw_gid)  # pytest's own folders are closed to others
        folder = root / "data"
        options = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", "postgres"]
        subprocess.run(
            [*_as_user(), _program("initdb"), *options, "-D", str(folder)],
            check=True,
            capture_output=True,
            cwd="/",
        )
        (folder / "pg_hba.conf").write_text(_ACCESS)
        with (folder / "postgresql.conf").open("a") as settings:
            settings.write("listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")
            settings.write("log_destination = 'stderr'\nlogging_collector = off\n")
            settings.write("lc_messages = 'C'\nshared_buffers = '16MB'\n")
        server = PostgresServer(folder, _free_port())
        try:
            server.start()
            server.sql("CREATE ROLE fabstir LOGIN", "postgres")
            server.sql(f"CREATE ROLE locked LOGIN PASSWORD '{PASSWORD}'", "postgres")
            server.sql("CREATE DATABASE fabstir OWNER fabstir", "postgres")
            server.sql("GRANT CREATE ON DATABASE fabstir TO locked")
            yield server
        finally:
            server.stop(signal.SIGQUIT)  # nobody needs what it would write last


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
