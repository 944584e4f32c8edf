"""A small disk of a test's own: a tmpfs, mounted in a child process with a namespace of its own.

command = [*small_disk.NEW_NAMESPACE, sys.executable, script, folder]
small_disk.mount(folder, 16 << 20)     # in the child
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

NEW_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def can_mount() -> bool:
    """Whether this machine lets us have a file system of our own."""
    try:
        done = subprocess.run([*NEW_NAMESPACE, "true"], check=False, capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def mount(folder: Path, num_bytes: int) -> None:
    """A small file system, which ends with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={num_bytes}".encode()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options):
        raise OSError(ctypes.get_errno(), "mount")


def fill(folder: Path) -> Path:
    """Take all that is left, as somebody else's file."""
    file = folder / "somebody-elses"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for size in (1 << 20, 1 << 12):
            try:
                while os.write(descriptor, bytes(size)) == size:
                    pass
            except OSError:
                continue
    finally:
        os.close(descriptor)
    return file
