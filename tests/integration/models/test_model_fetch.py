"""Fetching from a hub that misbehaves in every way that hubs do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from tests.integration.models.hub import GGUF, Cut, HubFile, Refuse, Served, Stall, sha256

from fabstir.config import load_settings
from fabstir.models import HubSource, ModelSpec, Patience, UrlSource, fetch_model
from fabstir.models.wanted import model_spec, with_source
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    ModelDownloadFailed,
    ModelHashMismatch,
    ModelMissing,
    ModelNotGguf,
)
from fabstir.s5.transfer.fetch import BlobSource

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = Patience(
    stall_timeout=20, max_failures=3, first_delay=0.001, max_delay=0.01, max_retry_after=0.01
)
HALF = len(GGUF) // 2
QUOTA_BYTES = 102_400
FETCH_CHILD = Path(__file__).with_name("fetch_child.py")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "org/tiny").iterdir()}


async def test_the_file_arrives_whole_with_its_progress(served: Served, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    path = await fetch_model(
        served.spec, tmp_path, on_progress=lambda done, total: seen.append((done, total))
    )

    assert path == tmp_path / "org/tiny/tiny.gguf"
    assert path.read_bytes() == GGUF
    assert seen == sorted(seen)
    assert seen[-1] == (len(GGUF), len(GGUF))
    assert names_in(tmp_path) == {"tiny.gguf", ".tiny.gguf.lock", ".tiny.gguf.verified"}


async def test_a_verified_file_is_neither_fetched_nor_hashed_again(
    served: Served, tmp_path: Path
) -> None:
    path = await fetch_model(served.spec, tmp_path)
    status = path.stat()
    forged = GGUF[:-1] + b"?"
    path.write_bytes(forged)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    again = await fetch_model(served.spec, tmp_path)

    # Another file, and yet taken: size, inode and (forged) time of change are the verified ones.
    assert again.read_bytes() == forged
    assert len(served.hub.requests) == 1


async def test_a_file_that_was_written_to_is_moved_aside_and_fetched_again(
    served: Served, tmp_path: Path
) -> None:
    path = await fetch_model(served.spec, tmp_path)
    damaged = GGUF[:-1] + b"?"
    path.write_bytes(damaged)

    await fetch_model(served.spec, tmp_path)

    assert path.read_bytes() == GGUF
    assert path.with_name("tiny.gguf.bad").read_bytes() == damaged


async def test_a_cut_connection_is_resumed_where_it_ended(served: Served, tmp_path: Path) -> None:
    served.file.faults[:] = [Cut(HALF)]

    path = await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == GGUF
    resumed = served.hub.requests[1].headers
    assert (resumed["range"], resumed["if-range"]) == (f"bytes={HALF}-", '"first"')
    assert served.hub.num_body_bytes == len(GGUF)


async def test_a_stalled_connection_is_given_up_and_resumed(served: Served, tmp_path: Path) -> None:
    served.file.faults[:] = [Stall(HALF)]

    path = await fetch_model(served.spec, tmp_path, patience=replace(PATIENCE, stall_timeout=0.5))

    assert path.read_bytes() == GGUF
    assert served.hub.requests[1].headers["range"] == f"bytes={HALF}-"


async def test_a_killed_process_is_resumed_by_the_next(served: Served, tmp_path: Path) -> None:
    served.file.faults[:] = [Stall(HALF)]
    async with await start_fetch(served, tmp_path) as child:
        with anyio.fail_after(30):
            await wait_for_progress(child, HALF)
        child.kill()

    path = await fetch_model(served.spec, tmp_path)

    assert path.read_bytes() == GGUF
    start = int(served.hub.requests[1].headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= HALF


async def test_a_disk_that_fills_up_keeps_what_came(served: Served, tmp_path: Path) -> None:
    """A file that may be no longer fails like a full disk: EFBIG, as a quota does."""
    arguments = [str(FETCH_CHILD), f"{served.hub.url}/tiny.gguf", served.spec.sha256, str(tmp_path)]
    limited = ["sh", "-c", f'ulimit -f {QUOTA_BYTES // 512}; exec "$@"', "sh", sys.executable]

    done = await anyio.run_process([*limited, *arguments], cwd=ROOT, check=False)
    path = await fetch_model(served.spec, tmp_path)

    said = done.stderr.decode()
    assert "ModelDownloadFailed" in said
    assert "free disk space and run it again, which goes on where it ended" in said
    assert path.read_bytes() == GGUF
    assert served.hub.requests[-1].headers["range"] == f"bytes={QUOTA_BYTES}-"


async def test_a_changed_file_is_fetched_from_its_start(served: Served, tmp_path: Path) -> None:
    old = bytes(len(GGUF))
    served.file.data, served.file.etag = old, '"old"'
    served.file.faults[:] = [Cut(HALF), Refuse(404)]
    with pytest.raises(ModelDownloadFailed):
        await fetch_model(served.spec, tmp_path, patience=PATIENCE)
    served.file.data, served.file.etag = GGUF, '"new"'

    path = await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == GGUF
    assert served.hub.requests[2].headers["if-range"] == '"old"'
    assert len(served.hub.requests) == 3


async def test_a_part_of_an_older_file_without_etag_is_found_out_and_fetched_whole(
    served: Served, tmp_path: Path
) -> None:
    served.file.data, served.file.etag = bytes(len(GGUF)), ""
    served.file.faults[:] = [Cut(HALF), Refuse(404)]
    with pytest.raises(ModelDownloadFailed):
        await fetch_model(served.spec, tmp_path, patience=PATIENCE)
    served.file.data = GGUF

    path = await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == GGUF
    assert "range" not in served.hub.requests[-1].headers


async def test_a_source_that_shrank_is_fetched_from_its_start(
    served: Served, tmp_path: Path
) -> None:
    small = GGUF[:1000]
    spec = replace(served.spec, sha256=sha256(small), size_bytes=None)
    served.file.etag = ""
    served.file.faults[:] = [Cut(HALF), Refuse(404)]
    with pytest.raises(ModelDownloadFailed):
        await fetch_model(spec, tmp_path, patience=PATIENCE)
    served.file.data = small

    path = await fetch_model(spec, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == small


async def test_a_source_without_ranges_is_fetched_from_its_start(
    served: Served, tmp_path: Path
) -> None:
    served.file.has_ranges = False
    served.file.faults[:] = [Cut(HALF)]

    path = await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == GGUF
    assert served.hub.num_body_bytes == HALF + len(GGUF)


async def test_a_hub_redirects_to_where_its_bytes_are(served: Served, tmp_path: Path) -> None:
    served.hub.redirects["/org/tiny/resolve/abc/tiny.gguf"] = "/tiny.gguf?signature=x"
    served.file.faults[:] = [Cut(HALF)]
    spec = replace(served.spec, source=HubSource(endpoint=served.hub.url + "/", revision="abc"))

    path = await fetch_model(spec, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == GGUF
    assert served.hub.requests[-1].path == "/tiny.gguf?signature=x"
    assert served.hub.requests[-1].headers["range"] == f"bytes={HALF}-"


@pytest.mark.parametrize("key", ["model.url", "model.hub"])
async def test_settings_say_where_a_model_comes_from(
    served: Served, tmp_path: Path, key: str
) -> None:
    served.hub.redirects["/org/tiny/resolve/v1/tiny.gguf"] = "/tiny.gguf"
    (config := tmp_path / "config.toml").touch()
    chosen = {
        "model.repo": "org/tiny",
        "model.file": "tiny.gguf",
        "model.sha256": served.spec.sha256.removeprefix("0x"),
        "model.revision": "v1",
        key: served.hub.url + ("/tiny.gguf" if key == "model.url" else ""),
    }
    settings = load_settings(file=config, environ={}, overrides=chosen)

    async def find(_blob: BlobId) -> Sequence[BlobSource]:
        raise AssertionError("nothing of S5 is asked for")

    path = await fetch_model(
        with_source(model_spec(settings.model), settings.model, find), tmp_path
    )

    assert path.read_bytes() == GGUF


async def test_a_busy_source_is_asked_again(served: Served, tmp_path: Path) -> None:
    served.file.faults[:] = [Refuse(429, (("Retry-After", "3600"),)), Refuse(500)]

    path = await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == GGUF
    assert len(served.hub.requests) == 3


async def test_a_source_that_keeps_failing_is_given_up_and_its_part_kept(
    served: Served, tmp_path: Path
) -> None:
    served.file.faults[:] = [Cut(HALF), Refuse(503), Refuse(503), Refuse(503)]

    with pytest.raises(ModelDownloadFailed, match=f"failed 3 times .*503.* {HALF} bytes kept"):
        await fetch_model(served.spec, tmp_path, patience=PATIENCE)

    path = await fetch_model(served.spec, tmp_path, patience=PATIENCE)
    assert path.read_bytes() == GGUF
    assert served.hub.num_body_bytes == len(GGUF)


async def test_a_missing_file_is_an_error_at_once_without_the_secret_in_its_address(
    served: Served, tmp_path: Path
) -> None:
    address = served.hub.url.replace("//", "//user:password@")
    spec = replace(served.spec, source=UrlSource(url=f"{address}/none.gguf?token=secret"))

    with pytest.raises(ModelDownloadFailed, match=r"none\.gguf answers HTTP 404") as caught:
        await fetch_model(spec, tmp_path, patience=PATIENCE)

    assert len(served.hub.requests) == 1
    assert "secret" not in str(caught.value)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("url", ["gopher://hub/tiny.gguf", "http://[::1/tiny.gguf", "tiny.gguf"])
async def test_an_address_that_is_none_says_so(served: Served, tmp_path: Path, url: str) -> None:
    spec = replace(served.spec, source=UrlSource(url=url))

    with pytest.raises(ModelDownloadFailed, match="correct the model's source"):
        await fetch_model(spec, tmp_path, patience=PATIENCE)


async def test_a_dead_source_is_given_up(served: Served, tmp_path: Path) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    spec = replace(served.spec, source=UrlSource(url=f"http://127.0.0.1:{port}/tiny.gguf"))

    with pytest.raises(ModelDownloadFailed, match="failed 3 times in a row"):
        await fetch_model(spec, tmp_path, patience=PATIENCE)


async def test_wrong_bytes_never_get_the_name(served: Served, tmp_path: Path) -> None:
    served.file.data = wrong = GGUF[:-1] + b"?"

    with pytest.raises(ModelHashMismatch) as caught:
        await fetch_model(served.spec, tmp_path)

    assert (caught.value.expected, caught.value.actual) == (sha256(GGUF), sha256(wrong))
    assert caught.value.path == str(tmp_path / "org/tiny/tiny.gguf.bad")
    assert (tmp_path / "org/tiny/tiny.gguf.bad").read_bytes() == wrong
    assert names_in(tmp_path) == {"tiny.gguf.bad", ".tiny.gguf.lock"}


async def test_another_length_is_refused_before_its_bytes_are_fetched(
    served: Served, tmp_path: Path
) -> None:
    served.file.data = bytes(50 * len(GGUF))

    with pytest.raises(ModelDownloadFailed, match=f"{len(GGUF)} are expected"):
        await fetch_model(served.spec, tmp_path)

    assert not (tmp_path / "org/tiny/tiny.gguf").exists()


async def test_a_source_that_does_not_say_its_length_is_stopped_when_it_sends_too_much(
    served: Served, tmp_path: Path
) -> None:
    served.file.has_length = False
    served.file.data = GGUF + b"?"

    with pytest.raises(ModelDownloadFailed, match="sends more than"):
        await fetch_model(served.spec, tmp_path)

    served.file.data = GGUF
    assert (await fetch_model(served.spec, tmp_path)).read_bytes() == GGUF


async def test_bytes_that_are_no_model_are_refused(served: Served, tmp_path: Path) -> None:
    page = b"<html>sign in first</html>"
    served.hub.files["/page"] = HubFile(data=page, content_type="text/html")
    source = UrlSource(url=f"{served.hub.url}/page")
    spec = ModelSpec(repo="org/tiny", file="page.gguf", sha256=sha256(page), source=source)

    with pytest.raises(ModelNotGguf, match="no GGUF file"):
        await fetch_model(spec, tmp_path)

    assert not (tmp_path / "org/tiny/page.gguf").exists()


async def test_a_model_without_source_is_only_verified(served: Served, tmp_path: Path) -> None:
    spec = replace(served.spec, source=None)
    path = spec.path_in(tmp_path)

    with pytest.raises(ModelMissing, match="put its file there"):
        await fetch_model(spec, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelHashMismatch):
        await fetch_model(spec, tmp_path)
    path.write_bytes(GGUF)

    assert await fetch_model(spec, tmp_path) == path


async def test_a_folder_that_cannot_be_written_is_named(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.write_text("a file", encoding="utf-8")

    with pytest.raises(ModelDownloadFailed, match=r"models/org.*choose another paths\.cache_dir"):
        await fetch_model(served.spec, folder)


async def test_processes_that_fetch_at_once_fetch_once(served: Served, tmp_path: Path) -> None:
    async with (
        await start_fetch(served, tmp_path) as one,
        await start_fetch(served, tmp_path) as other,
    ):
        with anyio.fail_after(60):
            codes = [await one.wait(), await other.wait()]

    assert codes == [0, 0]
    assert (tmp_path / "org/tiny/tiny.gguf").read_bytes() == GGUF
    assert len(served.hub.requests) == 1


async def start_fetch(served: Served, folder: Path) -> Process:
    assert isinstance(served.spec.source, UrlSource)
    arguments = [served.spec.source.url, served.spec.sha256, str(folder)]
    return await anyio.open_process(
        [sys.executable, "-m", "tests.integration.models.fetch_child", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=None,
    )


async def wait_for_progress(child: Process, num_bytes: int) -> None:
    assert child.stdout is not None
    text = ""
    async for piece in TextReceiveStream(child.stdout):
        text += piece
        if f"{num_bytes} {len(GGUF)}\n" in text:
            return
    raise AssertionError(f"the child ended early: {text}")
