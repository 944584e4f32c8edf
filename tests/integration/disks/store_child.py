"""A store whose disk became full while no node ran; run by test_full_disks.py."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from tests import small_disk

from fabstir.cli.app import run


def main(disk: Path) -> None:
    small_disk.mount(disk, 16 << 20)
    large, small = disk.parent / "large", disk.parent / "small"
    large.write_bytes(bytes(range(256)) * 12_000)
    small.write_bytes(b"a few bytes" * 1000)
    s5(disk, "put", str(large), "large")
    s5(disk, "put", str(small), "small")
    small_disk.fill(disk)

    # Everything that is there can be read.
    names = {entry["path"] for entry in s5(disk, "ls")["entries"]}
    assert names == {"large", "small"}, names
    s5(disk, "get", "large", "-o", str(disk.parent / "out"))
    assert (disk.parent / "out").read_bytes() == large.read_bytes()
    # Nothing is added, however short, and however often it is tried.
    for _ in range(2):
        for file in (large, small):
            said = s5(disk, "put", str(file), "another", code=1)
            assert "is full" in said, said
            assert "bytes are free" in said, said
            assert "away" not in said, said
            small_disk.fill(disk)
    # What is there can be removed, and then there is room again.
    s5(disk, "rm", "large")
    small_disk.fill(disk)
    removed = s5(disk, "gc", "--grace", "0")
    assert removed["num_bytes"] > 3_000_000, removed
    s5(disk, "put", str(small), "another")
    s5(disk, "get", "another", "-o", str(disk.parent / "again"))
    assert (disk.parent / "again").read_bytes() == small.read_bytes()


def s5(disk: Path, *args: str, code: int = 0) -> Any:
    """Run a command; its JSON, or what it said on stderr where it must fail."""
    out, err = io.StringIO(), io.StringIO()
    folder = [f"--set=paths.data_dir={disk}/data", f"--set=paths.cache_dir={disk}/cache"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run([*folder, f"--set=s5.identity={disk}/id.key", "--json", "s5", *args])
    assert status == code, f"{args}: {status}: {err.getvalue()}"
    said = out.getvalue()
    return err.getvalue() if code else json.loads(said) if said.startswith("{") else said


if __name__ == "__main__":
    main(Path(sys.argv[1]))
