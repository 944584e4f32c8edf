"""Writers are killed with SIGKILL at any point: what was acknowledged is there, whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import anyio
import pytest
from tests.integration.s5.fs.crash_child import Step, content, file_system_of

from fabstir.crypto import NATIVE
from fabstir.s5.store import open_store

pytestmark = pytest.mark.integration

MAX_STEPS = 12
"""Steps of one writer at most, before it is killed."""

MAX_DELAY = 0.02
"""Seconds into a step: one takes 5 to 20 ms."""

Files = dict[str, bytes]


class Killed:
    """What the killed writers acknowledged."""

    def __init__(self) -> None:
        self.files: Files = {}
        self.acknowledged: Counter[str] = Counter()
        self.interrupted: Counter[str] = Counter()

    def acknowledge(self, step: Step) -> None:
        self.acknowledged[step["do"]] += 1
        self.files = after(step, self.files)

    def check(self, pending: Step | None, found: Files) -> None:
        """Take over what the last, unacknowledged step did, if that is whole."""
        self.interrupted["nothing" if pending is None else pending["do"]] += 1
        allowed = [self.files] if pending is None else outcomes(pending, self.files)
        assert found in allowed, f"after {pending}"
        self.files = found


def after(step: Step, files: Files) -> Files:
    """The files after a step."""
    files = dict(files)
    match step["do"]:
        case "put":
            files[step["path"]] = content(step["tag"], step["size"])
        case "batch":
            files |= {path: content(step["tag"], step["size"]) for path in step["paths"]}
        case "delete":
            files.pop(step["path"], None)
        case "move":
            if step["path"] in files:
                files[step["to"]] = files.pop(step["path"])
        case _:
            pass
    return files


def outcomes(step: Step, before: Files) -> list[Files]:
    """What there may be after a step that was interrupted."""
    done = after(step, before)
    allowed = [before, done]
    if step["do"] == "move":
        # The new place is published before the old one goes.
        allowed.append({**before, **{path: done[path] for path in done if path == step["to"]}})
    if step["do"] == "batch":
        folders = sorted({path.rpartition("/")[0] for path in step["paths"]})
        for folder in folders:
            part = {path: done[path] for path in step["paths"] if path.startswith(f"{folder}/")}
            allowed.append({**before, **part})
    return allowed


@contextmanager
def start_zygote(folder: Path) -> Generator[subprocess.Popen[str]]:
    module = "tests.integration.s5.fs.crash_child"
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_one(
    zygote: subprocess.Popen[str], seed: str, random: Random, killed: Killed
) -> Step | None:
    """Let one writer write and kill it; the step that it did not acknowledge."""
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    num_steps = random.randrange(MAX_STEPS)
    zygote.stdin.write(f"{seed}\n")
    zygote.stdin.flush()
    pid = int(zygote.stdout.readline().split()[1])
    pending: Step | None = None
    for _ in range(2 * num_steps + 1):
        line = zygote.stdout.readline()
        assert line.startswith(("begin", "ack")), "the writer failed: see its error above"
        pending = take_over(line, pending, killed)
    # How far into the step is chance, and is to be: any point must do.
    time.sleep(random.random() * MAX_DELAY)
    os.kill(pid, signal.SIGKILL)
    for line in iter(zygote.stdout.readline, "gone\n"):
        pending = take_over(line, pending, killed)
    return pending


def take_over(line: str, pending: Step | None, killed: Killed) -> Step | None:
    """What a line of a writer says; the step that is under way after it."""
    word, _, rest = line.partition(" ")
    if word == "begin":
        return json.loads(rest)
    if pending is not None:
        killed.acknowledge(pending)
    return None


async def read_all(folder: Path) -> Files:
    """Everything, by a reader that has seen nothing."""
    async with open_store(folder, NATIVE) as store:
        fs = file_system_of(store)
        return {
            info.path: await fs.get(info.path, 4 << 20)
            async for info in fs.walk()
            if not info.is_directory
        }


def run_kills(folder: Path, num_kills: int) -> Killed:
    random, killed = Random(7), Killed()
    with start_zygote(folder) as zygote:
        for number in range(num_kills):
            pending = kill_one(zygote, f"{number}", random, killed)
            killed.check(pending, anyio.run(read_all, folder))
    return killed


def test_acknowledged_is_readable_after_a_kill(tmp_path: Path) -> None:
    run_kills(tmp_path / "store", 3)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_acknowledged_is_readable_after_any_of_many_kills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = run_kills(tmp_path / "store", 150)

    with capsys.disabled():
        sys.stdout.write(
            f"\n150 kills of writers of a file system, acknowledged = readable after each:\n"
            f"  killed in the middle of: {shown(killed.interrupted)}\n"
            f"  acknowledged, none lost: {shown(killed.acknowledged)}\n"
        )


def shown(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
