"""`fabstir s5 ...`: every command on a node that runs, and on the folder of one that does not."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.s5.process import options, s5_process

from fabstir.cli.app import run
from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quiet")]

Command = Callable[..., Any]


@pytest.fixture(scope="module", params=["alone", "serving"])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Of a node that runs, or that does not."""
    made = tmp_path_factory.mktemp(request.param)
    if request.param == "alone":
        yield made
        return
    with s5_process(made):
        yield made


@pytest.fixture
def s5(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; returns its JSON, or what it said on stderr where it must fail."""

    def command(*args: str, code: int = 0) -> Any:
        capsys.readouterr()
        status = run([*options(folder, {}), "--json", "s5", *args])
        said = capsys.readouterr()
        assert status == code, said.err
        if code:
            return said.err
        return json.loads(said.out) if said.out.startswith("{") else said.out

    return command


def test_a_file_goes_in_and_comes_out(s5: Command, tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192
    (tmp_path / "a.bin").write_bytes(content)

    stored = s5("put", str(tmp_path / "a.bin"), "docs/")
    fetched = s5("get", "docs/a.bin", "-o", str(tmp_path / "out"))
    as_blob = s5("get", stored["cid"], "-o", str(tmp_path / "sealed"))

    assert (stored["path"], stored["size"]) == ("docs/a.bin", len(content))
    assert stored["blake3"] == NATIVE.blake3(content).hex()
    assert Path(fetched["file"]).read_bytes() == content
    sealed = (tmp_path / "sealed").read_bytes()
    assert as_blob["size"] == len(sealed) > len(content)
    assert NATIVE.blake3(sealed) == BlobId.decode(stored["cid"]).digest
    assert content[:64] not in sealed


def test_an_interrupted_download_goes_on(s5: Command, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "a.bin").write_bytes(content)
    stored = s5("put", str(tmp_path / "a.bin"), "part.bin")
    part = tmp_path / f".out.{stored['cid'][-16:]}.part"
    part.write_bytes(content[:300_000])

    s5("get", "part.bin", "-o", str(tmp_path / "out"))

    assert (tmp_path / "out").read_bytes() == content
    assert not part.exists()


def test_a_part_that_was_damaged_is_not_believed(s5: Command, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"a" * 1000)
    stored = s5("put", str(tmp_path / "a.bin"), "damaged.bin")
    (tmp_path / f".out.{stored['cid'][-16:]}.part").write_bytes(b"b" * 500)

    said = s5("get", "damaged.bin", "-o", str(tmp_path / "out"), code=1)
    s5("get", "damaged.bin", "-o", str(tmp_path / "out"))

    assert "are not what was stored" in said
    assert (tmp_path / "out").read_bytes() == b"a" * 1000


def test_standard_input_and_output(s5: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))

    s5("put", "-", "piped.txt")
    out = s5("get", "piped.txt", "-o", "-")

    assert out == "from a pipe"


def test_a_folder_is_one_commit_and_lists_page_by_page(s5: Command, tmp_path: Path) -> None:
    for index in range(12):
        file = tmp_path / "site" / f"{index % 3}" / f"{index}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(index))

    stored = s5("put", "-r", str(tmp_path / "site"), "www")
    first = s5("ls", "www/0", "--limit", "3")
    rest = s5("ls", "www/0", "--limit", "3", "--cursor", first["cursor"])
    everything = s5("ls", "www/0", "--limit", "3", "--all")

    assert (stored["num_files"], stored["num_bytes"]) == (12, 14)
    names = [entry["path"] for entry in first["entries"] + rest["entries"]]
    assert names == [entry["path"] for entry in everything["entries"]]
    assert sorted(names) == ["www/0/0.txt", "www/0/3.txt", "www/0/6.txt", "www/0/9.txt"]


def test_moving_deleting_and_what_does_not_exist(s5: Command, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    s5("put", str(tmp_path / "a"), "x/a")

    s5("mv", "x/a", "y/b")

    assert "no file or directory" in s5("get", "x/a", "-o", "-", code=1)
    assert "not empty" in s5("rm", "y", code=1)
    s5("rm", "-r", "y")
    assert "there is no directory" in s5("rm", "y/b", code=1)
    assert "paths are written out in full" in s5("put", str(tmp_path / "a"), "../a", code=1)
    assert "no such file" in s5("put", str(tmp_path / "missing"), "a", code=2)
    assert "add -r" in s5("put", str(tmp_path), "a", code=2)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ("put FILE /../a", 1, "written out in full"),
        ("put FILE BLOB", 1, "a blob's identifier"),
        ("put FILE kept/file/below", 1, "is a file"),
        ("put FILE kept", 1, "is a directory"),
        ("put --type x FILE a", 2, "a media type"),
        ("put --plain -r FOLDER a", 2, "leave out -r"),
        ("put -r FILE a", 2, "no folder"),
        ("put - a/", 2, "write its PATH in full"),
        ("put ~nobody-of-this-name/a a", 2, "home directory"),
        ("put LONG a", 2, "File name too long"),
        ("get kept", 1, "`fabstir s5 ls` lists it"),
        ("get /", 1, "'/' is a directory"),
        ("get CUT", 1, "cut or mistyped"),
        ("get kept/file -o FOLDER", 1, "name a file with -o"),
        ("get kept/file -o FOLDER/missing/a", 1, "No such file or directory"),
        ("get kept/file -o /dev/null", 1, "a pipe or a device"),
        ("get kept/file -o FOLDER/LONG", 1, "name a file with -o"),
        ("ls kept/file", 1, "`fabstir s5 get` fetches it"),
        ("ls BLOB", 1, "a blob, not a directory"),
        ("ls --cursor x kept", 1, "no cursor"),
        ("rm kept", 1, "-r"),
        ("rm BLOB", 1, "takes a path"),
        ("rm /", 1, "the root"),
        ("mv kept/file kept/other", 1, "exists already"),
        ("mv kept/file kept", 1, "exists already"),
        ("mv kept kept/inside", 1, "into itself"),
        ("mv missing a", 1, "no file or directory"),
        ("share kept/file", 1, "is a file"),
        ("mount a kept", 2, "no capability"),
        ("mount a CLOSED", 1, "its key was not given"),
        ("pin kept/file", 1, "no blob's identifier"),
        ("pin BLOB", 1, "nor anybody it knows"),
        ("where kept", 1, "is a directory"),
    ],
)
def test_a_misuse_is_one_line_that_names_the_fault(
    s5: Command, tmp_path: Path, args: str, code: int, said: str
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    if "kept" not in (there := directories(s5)):  # the test before has left them as they were
        for path in ("kept/file", "kept/other"):
            s5("put", str(tmp_path / "file"), path)
        there = directories(s5)
    blob = BlobId(bytes(32), 7).encode()
    closed = there["kept"]
    words = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path), "LONG": "a" * 300}
    words |= {"BLOB": blob, "CUT": blob[:-1], "CLOSED": closed}

    typed = [_replaced(word, words) for word in args.split()]
    error = s5(*typed, code=code)

    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert s5("get", "kept/file", "-o", "-") == "content"


def directories(s5: Command) -> dict[str, str]:
    """The capabilities of those in the root, by path."""
    return {entry["path"]: entry["cid"] for entry in s5("ls")["entries"] if "cid" in entry}


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


def test_a_blob_is_found_though_its_identifier_names_a_wrong_size(
    s5: Command, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"content")
    blob = BlobId.decode(s5("put", "--plain", str(tmp_path / "a"), "sized")["cid"])

    fetched = s5("get", BlobId(blob.digest, 8).encode(), "-o", str(tmp_path / "out"))

    assert (tmp_path / "out").read_bytes() == b"content"
    assert (fetched["cid"], fetched["size"]) == (blob.encode(), 7)


def test_a_name_that_nearly_fills_what_the_disk_takes(s5: Command, tmp_path: Path) -> None:
    name = "é" * 127
    (tmp_path / "a").write_bytes(b"content")
    s5("put", str(tmp_path / "a"), name)

    s5("get", name, "-o", str(tmp_path / name))

    assert (tmp_path / name).read_bytes() == b"content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", name]


def test_what_a_link_leads_to_gets_the_content(s5: Command, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    s5("put", str(tmp_path / "a"), "linked")

    s5("get", "linked", "-o", str(tmp_path / "link"))

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"content"


def test_a_folder_with_things_that_are_no_files(s5: Command, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(b"content")
    (folder / "to file").symlink_to("below/file")
    (folder / "loop").symlink_to(".")
    (folder / "dangling").symlink_to("nowhere")
    (tmp_path / "secret").write_bytes(b"not named")
    (folder / "outside").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")

    stored = s5("put", "-r", str(folder), "odd")

    assert stored["num_files"] == 2
    assert stored["left_out"] == ["dangling", "loop", "outside", "pipe"]
    assert s5("get", "odd/to file", "-o", "-") == "content"


def test_a_folder_says_of_every_name_that_is_refused(s5: Command, tmp_path: Path) -> None:
    below = tmp_path / "folder" / "below"
    below.mkdir(parents=True)
    for name in (b"b\n", b"\xe9.txt", b"right\xe2\x80\xaeleft", b"sound"):
        (below / os.fsdecode(name)).write_bytes(b"content")

    said = s5("put", "-r", str(tmp_path / "folder"), "refused", code=1)

    assert "'below/b\\n': the name" in said
    assert "'below/\\udce9.txt': the name" in said
    assert "a byte that is no UTF-8" in said
    assert "'below/right\\u202eleft': the name" in said
    assert "nothing was stored" in said
    assert "there is no directory" in s5("ls", "refused", code=1)


def test_a_pipe_is_a_file_to_put(s5: Command, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.md"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"# through a pipe",))
    writer.start()

    stored = s5("put", str(pipe), "docs/")
    writer.join()

    assert (stored["size"], stored["media_type"]) == (16, "text/markdown")


def test_moving_into_a_directory_keeps_the_name(s5: Command, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    s5("put", str(tmp_path / "a"), "from/file")

    s5("mv", "from/file", "into/")

    assert s5("get", "into/file", "-o", "-") == "content"


def test_unpinning_says_whether_there_was_a_pin(s5: Command, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("pinned once")
    cid = s5("put", str(tmp_path / "a"), "pinned-once")["cid"]
    s5("pin", cid)

    assert s5("unpin", cid)["was_pinned"] is True
    assert s5("unpin", cid)["was_pinned"] is False


def test_pins_usage_places_collection_and_scrub(s5: Command, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("pinned")
    cid = s5("put", str(tmp_path / "a"), "pinned.txt")["cid"]

    s5("pin", cid, "--reason", "a test")
    s5("rm", "pinned.txt")
    s5("gc", "--grace", "0")
    usage = s5("du", "--where")
    where = s5("where", cid)
    scrubbed = s5("scrub")
    s5("unpin", cid)
    s5("gc", "--grace", "0")

    assert {"owner": "pins", "reason": "a test"}.items() <= next(
        line for line in usage["owners"] if line["owner"] == "pins"
    ).items()
    assert usage["num_missing"] == 0
    assert [copy["place"] for copy in where["copies"]] == ["this node"]
    assert scrubbed["num_bad"] == 0
    assert scrubbed["num_blobs"] > 0
    assert "has blob" in s5("pin", cid, code=1)
    assert "no blob's identifier" in s5("pin", "blobb", code=1)


def test_everything_leaves_in_one_file_and_comes_back(s5: Command, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("exported")
    s5("put", str(tmp_path / "a"), "exported.txt")

    exported = s5("export", str(tmp_path / "all.s5car"))
    imported = s5("import", str(tmp_path / "all.s5car"))

    assert exported["num_blobs"] == imported["num_blobs"] > 0
    assert "exists already" in s5("export", str(tmp_path / "all.s5car"), code=2)
    assert "no such file" in s5("import", str(tmp_path / "none"), code=2)


def test_sharing_the_queue_and_the_identity(s5: Command, folder: Path) -> None:
    shared = s5("share")
    identity = s5("identity", "show")
    words = s5("identity", "show", "--phrase")

    assert shared["capability"].startswith("b")
    assert s5("queue", "--wait") == {"uploads": [], "num_missing": 0}
    assert len(identity["root_key"]) > 40
    assert len(words["phrase"].split()) == 12
    assert Path(identity["file"]) == folder / "s5.identity"
    assert "is not overwritten" in s5("identity", "import", code=1)


def test_an_identity_comes_in_as_hex_or_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def imported(folder: Path, text: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text + "\n"))
        status = run([*options(folder, {}), "--json", "s5", "identity", "import"])
        said = capsys.readouterr()
        return status, said.err or said.out

    status, said = imported(tmp_path / "hex", "00" * 16)
    zeros = json.loads(said)["root_key"]
    same = imported(tmp_path / "words", "abandon " * 11 + "about")
    wrong = imported(tmp_path / "wrong", "abandon " * 12)

    assert (status, same[0]) == (0, 0)
    assert json.loads(same[1])["root_key"] == zeros
    assert wrong[0] == 1
    assert "not an S5 identity" in wrong[1]


@pytest.mark.parametrize("planted", ["link", "dangling link", "hard link", "pipe"])
def test_what_others_laid_where_a_part_would_be_is_not_written_to(
    s5: Command, tmp_path: Path, planted: str
) -> None:
    (tmp_path / "a").write_bytes(b"content")
    cid = s5("put", str(tmp_path / "a"), "planted")["cid"]
    part, victim = tmp_path / f".out.{cid[-16:]}.part", tmp_path / "victim"
    match planted:
        case "link":
            victim.write_bytes(b"mine")
            part.symlink_to(victim)
        case "dangling link":
            part.symlink_to(victim)
        case "hard link":
            victim.write_bytes(b"mine")
            part.hardlink_to(victim)
        case _:
            os.mkfifo(part)

    said = s5("get", "planted", "-o", str(tmp_path / "out"), code=1)

    assert "remove it" in said
    assert not (tmp_path / "out").exists()
    assert (victim.read_bytes() if victim.exists() else b"") == (
        b"mine" if "dangling" not in planted and planted != "pipe" else b""
    )


def test_a_folder_that_was_made_to_harm_ends_no_node(s5: Command, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    (folder / "long").symlink_to("x" * 300)
    (folder / "loop").symlink_to("loop")

    stored = s5("put", "-r", str(folder), "harm")

    assert (stored["num_files"], stored["left_out"]) == (1, ["long", "loop"])
    assert s5("get", "harm/file", "-o", "-") == "content"


def test_a_folder_with_two_spellings_of_a_name_is_refused_with_both(
    s5: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "caf\u00e9.txt").write_bytes(b"one")
    (folder / "cafe\u0301.txt").write_bytes(b"two")

    said = s5("put", "-r", str(folder), "twins", code=1)

    assert "caf\\xe9.txt" in said
    assert "cafe\\u0301.txt" in said
    assert "nothing was stored" in said


def test_a_collection_says_what_it_kept_and_why(s5: Command) -> None:
    collected = s5("gc")

    assert (collected["num_kept"], collected["unreadable"], collected["problem"]) == (0, [], None)
