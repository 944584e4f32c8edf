"""`s5 put -r` of a folder that somebody else made, and `s5 get` into one."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from tests.integration.s5.run.conftest import s5_settings

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import NotFound, PathRefused, StorageError
from fabstir.protocol.fields import Fields
from fabstir.s5.run.commands import S5Commands
from fabstir.s5.run.parts import S5, open_s5_parts
from fabstir.web.control import Asked

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SECRET = b"not of this folder"


@pytest.fixture
async def s5(tmp_path: Path) -> AsyncGenerator[S5]:
    async with open_s5_parts(s5_settings(tmp_path / "node")) as parts:
        yield parts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "below").mkdir(parents=True)
    (made / "a").write_bytes(b"a")
    (made / "below" / "b").write_bytes(b"b")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "b").write_bytes(SECRET)
    return made


async def put_tree(
    s5: S5, folder: Path | str, meanwhile: Callable[[], object] = lambda: None
) -> dict[str, Json]:
    """Store it; `meanwhile` happens once, between the listing and the first file."""
    todo = [meanwhile]

    async def report(_progress: Json) -> None:
        while todo:
            todo.pop()()

    fields = Fields({"folder": str(folder), "path": "stored"}, "the request")
    answer = await S5Commands(s5).put_tree(Asked(fields, report))
    assert isinstance(answer, dict)
    return answer


async def test_links_that_no_system_follows_are_left_out_and_named(s5: S5, folder: Path) -> None:
    (folder / "long").symlink_to("x" * 300)
    (folder / "longer").symlink_to("/".join(["y" * 200] * 15))
    (folder / "circle").symlink_to("circle")
    (folder / "below" / "up").symlink_to("../below/up/b")
    (folder / "self").symlink_to(folder)
    (folder / "proc").symlink_to("/proc/self/environ")
    (folder / "tty").symlink_to("/dev/zero")
    (folder / "through").symlink_to("below/../below/b")
    (folder / "beside").symlink_to("../folder.other/b")
    (folder.parent / "folder.other").mkdir()
    (folder.parent / "folder.other" / "b").write_bytes(SECRET)

    stored = await put_tree(s5, folder)

    assert stored["num_files"] == 3
    assert stored["left_out"] == [
        "below/up",
        "beside",
        "circle",
        "long",
        "longer",
        "proc",
        "self",
        "tty",
    ]
    assert await s5.files.get("stored/through", 10) == b"b"


def to_a_link(folder: Path) -> None:
    (folder / "below" / "b").unlink()
    (folder / "below" / "b").symlink_to("../../secret/b")


def to_a_link_of_a_folder(folder: Path) -> None:
    (folder / "below").rename(folder / "was below")
    (folder / "below").symlink_to("../secret")


def to_a_pipe(folder: Path) -> None:
    (folder / "below" / "b").unlink()
    os.mkfifo(folder / "below" / "b")


def to_a_folder(folder: Path) -> None:
    (folder / "below" / "b").unlink()
    (folder / "below" / "b").mkdir()


def to_nothing(folder: Path) -> None:
    (folder / "below" / "b").unlink()


@pytest.mark.parametrize(
    "change", [to_a_link, to_a_link_of_a_folder, to_a_pipe, to_a_folder, to_nothing]
)
@pytest.mark.parametrize("is_linked", [False, True])
async def test_what_was_a_file_when_it_was_listed(
    s5: S5, folder: Path, change: Callable[[Path], None], is_linked: bool
) -> None:
    if is_linked:
        (folder / "a link").symlink_to("below/b")

    with pytest.raises(StorageError, match=r"below/b|a link"):
        await put_tree(s5, folder, lambda: change(folder))

    assert not await s5.files.exists("stored")
    assert (await put_tree(s5, folder.parent / "secret"))["num_files"] == 1


async def test_a_folder_that_is_swapped_whole_is_the_one_that_was_named(
    s5: S5, folder: Path
) -> None:
    def swap() -> None:
        folder.rename(folder.parent / "was folder")
        folder.symlink_to("secret")

    await put_tree(s5, folder, swap)

    assert await s5.files.get("stored/below/b", 10) == b"b"
    assert not await s5.files.exists("stored/b")


async def test_a_folder_without_end_and_none_at_all(s5: S5, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.joinpath(*"d" * 100).mkdir(parents=True)

    with pytest.raises(PathRefused, match="deeper than 64"):
        await put_tree(s5, deep)
    for missing in (tmp_path / "missing", tmp_path / ("m" * 300), "/tmp/\0"):
        with pytest.raises((NotFound, StorageError)):
            await put_tree(s5, missing)


TWINS = ("caf\u00e9", "cafe\u0301")


async def test_two_spellings_of_one_name_lose_nothing(s5: S5, tmp_path: Path) -> None:
    for number, kind in enumerate(("files", "folders", "a file and a folder")):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, is_folder in zip(TWINS, (kind == "folders", kind != "files"), strict=True):
            if is_folder:
                (folder / name).mkdir()
            (folder / name / "menu" if is_folder else folder / name).write_text(name)

        with pytest.raises(PathRefused, match=r"cafe\\u0301.*caf\\xe9.*one name here"):
            await put_tree(s5, folder)

        assert not await s5.files.exists("stored")


async def test_a_folder_of_a_mac_is_stored_but_for_its_icon(s5: S5, folder: Path) -> None:
    (folder / "Icon\r").touch()
    (folder / "below" / "Icon\r").touch()
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")

    stored = await put_tree(s5, folder)

    assert stored["num_files"] == 3
    assert stored["left_out"] == ["Icon\r", "below/Icon\r"]
