"""Files that are private, whole, and never overwritten by accident."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from fabstir.db.files import create_private, install, replace_private


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "secret"


def test_what_is_created_only_its_owner_reads(path: Path) -> None:
    before = os.umask(0)
    try:
        is_written = create_private(path, b"seed")
    finally:
        os.umask(before)

    assert is_written
    assert path.read_bytes() == b"seed"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["secret"]


def test_what_is_there_is_not_created_again(path: Path) -> None:
    create_private(path, b"first")

    assert not create_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert [file.name for file in path.parent.iterdir()] == ["secret"]


def test_of_many_that_create_one_file_one_does(path: Path) -> None:
    written: list[bytes] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        content = b"%d" % number
        start.wait()
        if create_private(path, content):
            written.append(content)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert written == [path.read_bytes()]


def test_a_private_file_is_replaced_by_a_private_one(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"before")
    path.chmod(0o644)
    (path.parent / ".secret-killed.part").write_bytes(b"left by a kill")

    replace_private(path, b"after")

    assert path.read_bytes() == b"after"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["secret"]


def test_a_folder_that_cannot_be_written_is_an_error(path: Path) -> None:
    path.parent.write_bytes(b"a file where a folder should be")

    for write in (create_private, replace_private):
        with pytest.raises(OSError, match=r"exists|directory"):
            write(path, b"x")


def test_a_finished_file_takes_its_name(tmp_path: Path) -> None:
    part, target = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(b"new")
    target.write_bytes(b"old")

    install(part, target)

    assert target.read_bytes() == b"new"
    assert not part.exists()
