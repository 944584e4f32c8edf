"""`fabstir s5 export` and the identity: another machine has the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.s5.process import options

from fabstir.cli.app import run
from fabstir.telemetry import configure_logging

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quiet")]

Node = Callable[..., Any]


@pytest.fixture
def quiet() -> Iterator[None]:
    yield
    configure_logging("warning")


@pytest.fixture
def node(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], Node]:
    """Runs commands on the node of a folder."""

    def of(folder: Path) -> Node:
        def command(*args: str) -> Any:
            capsys.readouterr()
            status = run([*options(folder, {}), "--json", "s5", *args])
            said = capsys.readouterr()
            assert status == 0, said.err
            return json.loads(said.out)

        return command

    return of


def test_an_archive_and_the_identity_restore_every_file(
    node: Callable[[Path], Node], tmp_path: Path
) -> None:
    ours, restored = tmp_path / "ours", tmp_path / "restored"
    ours.mkdir()
    restored.mkdir()
    contents = {"home/a.txt": b"first", "home/deep/b.bin": bytes(300_000), "c": b""}
    file = tmp_path / "file"
    for path, content in contents.items():
        file.write_bytes(content)
        node(ours)("put", str(file), path)
    file.write_bytes(b"second")
    node(ours)("put", str(file), "home/a.txt")
    contents["home/a.txt"] = b"second"
    exported = node(ours)("export", str(tmp_path / "all.s5car"))

    shutil.copy(ours / "s5.identity", restored / "s5.identity")
    imported = node(restored)("import", str(tmp_path / "all.s5car"))

    assert (imported["num_blobs"], imported["num_entries"], imported["num_outdated"]) == (
        exported["num_blobs"],
        exported["num_entries"],
        0,
    )
    # The files own what their tree names now: a vacuum releases none of it, and what is replaced
    # later is collected.
    node(restored)("gc", "--grace", "0")
    assert read_all(node(restored), contents, tmp_path) == contents
    for path in contents:
        node(restored)("rm", path)
    node(restored)("rm", "-r", "home")
    node(restored)("gc", "--grace", "0")
    owners = {owner["owner"]: owner["num_bytes"] for owner in node(restored)("du")["owners"]}
    assert owners.get("files", 0) < 20_000, "only the root and its index are left"
    assert not owners.get("pins"), "what was imported is the files'"


def test_what_is_newer_here_stays(node: Callable[[Path], Node], tmp_path: Path) -> None:
    folder, file = tmp_path / "node", tmp_path / "file"
    folder.mkdir()
    file.write_bytes(b"old")
    node(folder)("put", str(file), "a")
    node(folder)("export", str(tmp_path / "all.s5car"))
    file.write_bytes(b"newer")
    node(folder)("put", str(file), "a")

    imported = node(folder)("import", str(tmp_path / "all.s5car"))

    assert imported["num_outdated"] > 0
    assert read_all(node(folder), ["a"], tmp_path) == {"a": b"newer"}


def read_all(s5: Node, paths: Any, tmp_path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, path in enumerate(paths):
        fetched = s5("get", path, "-o", str(tmp_path / f"out{number}"))
        found[path] = Path(fetched["file"]).read_bytes()
    return found
