"""The guard of `make test` sees what a command leaves behind."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' subreaper")


def run(script: str) -> subprocess.CompletedProcess[str]:
    # One second instead of ten, by the same code.
    guard = (
        "import sys; from tests import leaves_nothing as g; g.GRACE_SECONDS = 1; sys.exit(g.main())"
    )
    command = [sys.executable, "-c", guard, sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_an_orphan_is_named_and_killed() -> None:
    # The grandchild leaves its session and its parent: nothing but the subreaper can find it.
    done = run(
        "import subprocess; child = subprocess.Popen(['sleep', '1000'], start_new_session=True);"
        "print(child.pid); import os; os._exit(0)"
    )

    pid = done.stdout.strip()
    assert done.returncode == 1
    assert done.stderr == f"left running: {pid} sleep 1000 \n"
    assert subprocess.run(["kill", "-0", pid], check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_of_a_tidy_command_is_kept(code: int) -> None:
    assert run(f"import sys; sys.exit({code})").returncode == code


def test_a_killed_command_has_the_shells_exit_code() -> None:
    assert run("import os; os.kill(os.getpid(), 9)").returncode == 128 + 9
