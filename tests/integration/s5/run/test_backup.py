"""`fabstir s5 export` and the identity: another machine has the same files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.s5.process import run_cli

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quiet")]


class Node:
    """Commands on the folder of a node that does not run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *args: str) -> Any:
        code, answer, said = run_cli(self._folder, *args)
        assert code == 0, said
        return answer


def test_an_archive_and_the_identity_restore_every_file(tmp_path: Path) -> None:
    ours, restored = Node(tmp_path / "ours"), Node(tmp_path / "restored")
    contents = {"home/a.txt": b"first", "home/deep/b.bin": bytes(300_000), "c": b""}
    file = tmp_path / "file"
    for path, content in contents.items():
        file.write_bytes(content)
        ours("put", str(file), path)
    file.write_bytes(b"second")
    ours("put", str(file), "home/a.txt")
    contents["home/a.txt"] = b"second"
    exported = ours("export", str(tmp_path / "all.s5car"))

    (tmp_path / "restored").mkdir()
    shutil.copy(tmp_path / "ours" / "s5.identity", tmp_path / "restored" / "s5.identity")
    imported = restored("import", str(tmp_path / "all.s5car"))

    assert (imported["num_blobs"], imported["num_entries"], imported["num_outdated"]) == (
        exported["num_blobs"],
        exported["num_entries"],
        0,
    )
    # The files own what their tree names now: a vacuum releases none of it, and what is replaced
    # later is collected.
    restored("gc", "--grace", "0")
    assert read_all(restored, contents, tmp_path) == contents
    for path in contents:
        restored("rm", path)
    restored("rm", "-r", "home")
    restored("gc", "--grace", "0")
    owners = {owner["owner"]: owner["num_bytes"] for owner in restored("du")["owners"]}
    assert owners.get("files", 0) < 20_000, "only the root and its index are left"
    assert not owners.get("pins"), "what was imported is the files'"


def test_what_is_newer_here_stays(tmp_path: Path) -> None:
    node, file = Node(tmp_path / "node"), tmp_path / "file"
    file.write_bytes(b"old")
    node("put", str(file), "a")
    node("export", str(tmp_path / "all.s5car"))
    file.write_bytes(b"newer")
    node("put", str(file), "a")

    imported = node("import", str(tmp_path / "all.s5car"))

    assert imported["num_outdated"] > 0
    assert read_all(node, ["a"], tmp_path) == {"a": b"newer"}


def read_all(s5: Node, paths: Iterable[str], tmp_path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, path in enumerate(paths):
        fetched = s5("get", path, "-o", str(tmp_path / f"out{number}"))
        found[path] = Path(fetched["file"]).read_bytes()
    return found
