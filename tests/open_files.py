"""A process that has no file descriptor left."""

from __future__ import annotations

import gc
import resource
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def no_more_open_files() -> Generator[None]:
    """Nothing can be opened in the block; what is open stays so."""
    # Warnings of what an earlier test left are told by opening source files.
    gc.collect()
    gc.disable()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        gc.enable()
