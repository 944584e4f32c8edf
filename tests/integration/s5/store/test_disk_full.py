"""The kernel refuses a write, in the middle of a blob or of a commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.store import full_child

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

NEW_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def can_mount() -> bool:
    """Whether this machine lets us have a file system of our own."""
    try:
        done = subprocess.run([*NEW_NAMESPACE, "true"], check=False, capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


async def run_child(command: list[str], folder: Path, kind: str) -> None:
    script = full_child.__file__
    done = await anyio.run_process(
        [*command, sys.executable, script, str(folder), kind], check=False
    )
    assert done.returncode == 0, done.stderr.decode()


async def test_a_full_disk_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("no user namespaces here: a small file system cannot be mounted")

    await run_child(NEW_NAMESPACE, tmp_path, "tmpfs")


async def test_a_file_that_the_kernel_refuses_is_not_kept(tmp_path: Path) -> None:
    await run_child([], tmp_path, "fsize")
