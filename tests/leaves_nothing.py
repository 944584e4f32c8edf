"""Run a command, and fail if any process that it started, however deep, outlives it.

    python tests/leaves_nothing.py pytest tests/integration

Orphans of the command become children of this process (Linux' subreaper), so none can hide. On
other systems the command is only run.
"""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

GRACE_SECONDS = 10
"""For children that end because their parent did: they notice within a second or two."""

_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """The command's own exit code, or 1 if it left something running."""
    # Ctrl-C is for the command; this process then waits for it to tidy up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    code = subprocess.run(sys.argv[1:], check=False, preexec_fn=_allow_interrupts).returncode
    left = _wait_for_orphans()
    for pid, command in left.items():
        sys.stderr.write(f"left running: {pid} {command}\n")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return 1 if left else code if code >= 0 else 128 - code


def _allow_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _wait_for_orphans() -> dict[int, str]:
    """Give them the grace period; what is left after it, with its command line."""

    def give_up(_signum: int, _frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(GRACE_SECONDS)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return {}
    except TimeoutError:
        children = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
        return {int(pid): _command_line(pid) for pid in children}
    finally:
        signal.alarm(0)


def _command_line(pid: str) -> str:
    return Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode()


if __name__ == "__main__":
    sys.exit(main())
