"""Files that people name, or in whose place somebody may have put something else: opened without
waiting for a pipe's other end, and read with a bound.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_plain(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a plain file; a link is followed.

    Args:
        mode: what one that is made gets, less the umask.

    Raises:
        OSError: also EINVAL for a pipe or a device, which may never answer.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return descriptor


def read_plain(path: Path, max_bytes: int) -> bytes:
    """All of a plain file, as `open_plain`.

    Raises:
        OSError: also EFBIG for a longer one.
    """
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes", str(path))
    return data
