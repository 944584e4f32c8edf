"""A directory that one node shares, used on another that knows the first as its peer only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.s5.process import S5Process, eventually, run_cli, s5_process

pytestmark = pytest.mark.e2e

NOTE = b"a note\n"
LARGE = bytes(range(251)) * 5000


@dataclass(frozen=True)
class User:
    """Somebody with commands and a node."""

    node: S5Process

    def run(self, *args: str) -> Any:
        """What a command prints as JSON."""
        code, answer, said = run_cli(self.node.folder, *args)
        assert code == 0, said
        return answer

    def put(self, content: bytes, path: str) -> None:
        """Store a file."""
        file = self.node.folder / "to put"
        file.write_bytes(content)
        self.run("put", str(file), path)

    def get(self, target: str) -> bytes:
        """Fetch a file."""
        file = self.node.folder / "got"
        self.run("get", target, "-o", str(file))
        return file.read_bytes()

    def names(self, target: str) -> list[str]:
        """List a directory."""
        return sorted(entry["path"] for entry in self.run("ls", target)["entries"])

    def refused(self, *args: str) -> str:
        """What a command that must fail says: one line."""
        code, _, said = run_cli(self.node.folder, *args)
        assert code == 1, said
        assert said.startswith("error: "), said
        assert said.count("\n") == 1, said
        return said


@dataclass(frozen=True)
class Pair:
    """Two users; the first shares `home/shared`."""

    giver: User
    taker: User
    reads: str
    writes: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("sharing")
    with (
        s5_process(folder / "giver") as giver_node,
        s5_process(folder / "taker", peers=giver_node.p2p_uri) as taker_node,
    ):
        giver, taker = User(giver_node), User(taker_node)
        giver.put(NOTE, "home/shared/note.md")
        giver.put(LARGE, "home/shared/deep/er/large.bin")
        giver.put(b"not shared", "home/mine")
        yield Pair(
            giver,
            taker,
            giver.run("share", "home/shared")["capability"],
            giver.run("share", "home/shared", "--write")["capability"],
        )
        for node in (giver_node, taker_node):
            log = node.log()
            assert "ERROR" not in log
            for secret in (giver.run("share", "home/shared")["capability"][20:],):
                assert secret not in log


def test_a_stranger_lists_and_fetches_what_is_shared(pair: Pair) -> None:
    assert pair.taker.names(pair.reads) == ["deep", "note.md"]
    assert pair.taker.names(f"{pair.reads}/deep/er") == ["deep/er/large.bin"]
    assert pair.taker.names(f"fs5://{pair.reads}/deep") == ["deep/er"]
    assert pair.taker.get(f"{pair.reads}/note.md") == NOTE
    assert pair.taker.get(f"{pair.reads}/deep/er/large.bin") == LARGE
    assert pair.taker.names("") == []
    assert "written out in full" in pair.taker.refused("get", f"{pair.reads}/../mine")


def test_a_download_of_a_shared_file_goes_on_where_it_broke_off(pair: Pair, tmp_path: Path) -> None:
    (entry,) = pair.taker.run("ls", f"{pair.reads}/deep/er")["entries"]
    part = tmp_path / f".out.{entry['cid'][-16:]}.part"
    part.write_bytes(LARGE[:300_000])

    pair.taker.run("get", f"{pair.reads}/deep/er/large.bin", "-o", str(tmp_path / "out"))

    assert (tmp_path / "out").read_bytes() == LARGE
    assert not part.exists()


def test_a_mounted_directory_is_read_as_ones_own_and_shows_what_comes_later(pair: Pair) -> None:
    mounted = pair.taker.run("mount", "from/them", pair.reads)

    assert mounted == {"path": "from/them", "is_writable": False}
    assert pair.taker.names("from/them") == ["from/them/deep", "from/them/note.md"]
    assert pair.taker.get("from/them/deep/er/large.bin") == LARGE
    with pair.taker.node.client() as client:
        assert client.get("/s5/fs/from/them/note.md").content == NOTE
        assert client.put("/s5/fs/from/them/new", content=b"x").status_code == 403
    assert "reading only" in pair.taker.refused("put", __file__, "from/them/new")
    assert "reading only" in pair.taker.refused("put", __file__, "from/them/deep/new")
    assert "reading only" in pair.taker.refused("rm", "from/them/note.md")
    assert "something already" in pair.taker.refused("mount", "from/them", pair.reads)

    pair.giver.put(b"later", "home/shared/later.txt")
    assert eventually(lambda: "from/them/later.txt" in pair.taker.names("from/them"))
    pair.giver.run("rm", "home/shared/later.txt")

    pair.taker.run("rm", "from/them")
    assert pair.taker.names("from") == []
    assert pair.giver.get("home/shared/note.md") == NOTE


def test_a_writable_share_is_written_from_the_other_side(pair: Pair) -> None:
    mounted = pair.taker.run("mount", "ours", pair.writes)

    pair.taker.put(b"an answer", "ours/answer.txt")
    pair.taker.put(b"one more", "ours/new/one.txt")
    answer = eventually(lambda: _read(pair.giver, "home/shared/answer.txt"))
    more = eventually(lambda: _read(pair.giver, "home/shared/new/one.txt"))
    pair.taker.run("gc", "--grace", "0")

    assert mounted["is_writable"] is True
    assert (answer, more) == (b"an answer", b"one more")
    assert pair.taker.get("ours/answer.txt") == b"an answer"
    assert pair.giver.names("home") == ["home/mine", "home/shared"]


def _read(user: User, path: str) -> bytes | None:
    code, _, _ = run_cli(user.node.folder, "get", path, "-o", str(user.node.folder / "read"))
    return (user.node.folder / "read").read_bytes() if code == 0 else None


def test_what_is_no_capability_says_so_and_does_not_repeat_it(pair: Pair) -> None:
    cut = pair.reads[:-3]

    for args in (
        ("ls", cut),
        ("get", f"{cut}/note.md"),
        ("ls", f"fs5://{cut}"),
        ("put", __file__, f"{pair.reads}/note.md"),
        ("rm", f"{pair.reads}/note.md"),
        ("share", pair.reads),
        ("pin", pair.reads),
    ):
        said = pair.taker.refused(*args)
        assert "capability" in said
        assert pair.reads[20:60] not in said
    assert "blob" in pair.taker.refused(
        "ls", "blobb56ml73nukt53pdccbzmsu4hpn6xy5p3xr7ovu7wkejl4ikkbyauaye"
    )
