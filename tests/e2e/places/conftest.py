"""The command in machines as they really are: the installed one, where it matters how it starts."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import pytest
from tests.forked import fork_server, run_forked

FABSTIR = Path(sys.executable).with_name("fabstir")

TIMEOUT_SECONDS = 60
"""Of one command, on a machine that is busy with other tests."""


_STORAGE = (
    *("fabstir.s5.run.build", "fabstir.s5.door", "fabstir.s5.fs", "fabstir.s5.portals"),
    *("anyio._backends._asyncio", "anyio._backends._trio", "rich.table", "typer", "uvloop"),
)
"""What `fabstir s5 ls`, `put` and `get` import, but for `fabstir.cli` (as in `tests/forked.py`)."""

_PYTHONS_OWN = re.compile(r"\b(LC_|LANG|PYTHON)")
"""Variables that Python reads before it runs anything of ours."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; what it wrote as bytes, for not every place writes UTF-8."""

    status: int
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        """Both streams as text."""
        return self.out.decode(errors="replace") + self.err.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Place:
    """A user's machine: a home of his own, and nothing from the tests' own environment."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict[str, str])

    def environment(self, **more: str) -> dict[str, str]:
        kept = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        return {**kept, **self.variables, **more}

    def run(
        self,
        *arguments: str,
        given: bytes = b"",
        variables: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
        server: socket.socket | None = None,
    ) -> Ended:
        """Run the command to its end.

        Args:
            given: its standard input.
            variables: besides this place's own.
            before: a program that starts it, such as `sh -c`.
            server: whose Python was started with these variables (`started_with`).
        """
        environment = self.environment(**(variables or {}))
        if before or (server is None and _PYTHONS_OWN.search(" ".join(variables or {}))):
            done = subprocess.run(
                [*before, str(FABSTIR), *arguments],
                input=given,
                capture_output=True,
                env=environment,
                cwd=self.home,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        else:
            done = anyio.run(partial(self._run_forked, arguments, given, environment, server))
        assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
        return Ended(done.returncode, done.stdout, done.stderr)

    async def _run_forked(
        self,
        arguments: Sequence[str],
        given: bytes,
        environment: Mapping[str, str],
        server: socket.socket | None,
    ) -> subprocess.CompletedProcess[bytes]:
        with anyio.fail_after(TIMEOUT_SECONDS):
            return await run_forked(
                arguments,
                given=given,
                environment=environment,
                folder=self.home,
                server=server,
            )

    @contextmanager
    def started_with(self, variables: Mapping[str, str]) -> Generator[socket.socket | None]:
        """A Python that was really started with these variables, and forks `fabstir s5`; None:
        it reads none of them, and this process's own server does as well."""
        if not _PYTHONS_OWN.search(" ".join(variables)):
            yield None
            return
        with fork_server(_STORAGE, self.environment(**variables)) as server:
            yield server


@pytest.fixture
def place(tmp_path: Path) -> Place:
    home = tmp_path / "home"
    home.mkdir()
    return Place(home)


def refused(ended: Ended, *words: str) -> None:
    """It named the cause and the fix, and ended as for wrong settings."""
    assert ended.status == 2, ended.said
    missing = [word for word in words if word not in ended.said]
    assert missing == [], ended.said
