"""A model by its S5 identifier, from two nodes: put once, fetched by anybody, believed never."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.integration.s5.fetch.server import Conduct, Sample, Server, noise, open_server

from fabstir.config import load_settings
from fabstir.models import ModelSpec, Patience, S5Source, fetch_model
from fabstir.node.model import model_spec
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ModelDownloadFailed, ModelHashMismatch, NotFound
from fabstir.primitives.ids import hash32
from fabstir.storage.fetch import BlobSource

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ROOT = Path(__file__).resolve().parents[4]
GGUF = b"GGUF" + (3).to_bytes(4, "little") + noise(18_000_000, seed=20)
SAMPLE = Sample.of(GGUF)
PATIENCE = Patience(stall_timeout=20, max_failures=2, first_delay=0.001, max_delay=0.01)


def spec_from(*servers: Server, sample: Sample = SAMPLE) -> ModelSpec:
    async def find(blob: BlobId) -> Sequence[BlobSource]:
        return [BlobSource.portal(server.url, blob) for server in servers]

    return ModelSpec(
        repo="org/tiny",
        file="tiny.gguf",
        sha256=hash32(hashlib.sha256(GGUF).digest()),
        size_bytes=len(GGUF),
        source=S5Source(blob=sample.blob, find=find),
    )


def names_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "org/tiny").iterdir()}


async def test_it_comes_from_both_nodes_and_is_verified(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    async with open_server(SAMPLE) as one, open_server(SAMPLE) as two:
        path = await fetch_model(
            spec_from(one, two),
            tmp_path,
            on_progress=lambda done, total: seen.append((done, total)),
        )

    assert path.read_bytes() == GGUF
    assert names_in(tmp_path) == {"tiny.gguf", ".tiny.gguf.lock", ".tiny.gguf.verified"}
    assert one.num_body_bytes > 0
    assert two.num_body_bytes > 0
    assert seen[-1] == (len(GGUF), len(GGUF))


async def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    conduct = Conduct()
    async with open_server(SAMPLE, conduct) as one, open_server(SAMPLE, conduct) as two:
        spec = spec_from(one, two)
        script = Path(__file__).with_name("model_child.py")
        command = [sys.executable, str(script), SAMPLE.blob.encode(), spec.sha256, str(tmp_path)]
        command += [one.url, two.url]
        async with await anyio.open_process(command, cwd=ROOT, stderr=None) as child:
            assert child.stdout is not None
            seen = b""
            with anyio.fail_after(30):
                while b"\n" not in seen:
                    seen += await child.stdout.receive()
            conduct.stall_after = 0
            child.kill()
            await child.wait()
        conduct.stall_after = None
        before = one.num_body_bytes + two.num_body_bytes

        path = await fetch_model(spec, tmp_path)

        assert path.read_bytes() == GGUF
        assert before > 0
        assert one.num_body_bytes + two.num_body_bytes - before < len(GGUF)


async def test_a_node_that_lies_costs_nothing_but_itself(tmp_path: Path) -> None:
    lie = Conduct(wrong_groups=frozenset(range(100)))
    async with open_server(SAMPLE, lie) as liar, open_server(SAMPLE) as honest:
        path = await fetch_model(spec_from(liar, honest), tmp_path)

    assert path.read_bytes() == GGUF


async def test_another_files_identifier_is_found_out(tmp_path: Path) -> None:
    other = Sample.of(noise(len(GGUF), seed=3))
    async with open_server(other) as server:
        with pytest.raises(ModelHashMismatch):
            await fetch_model(spec_from(server, sample=other), tmp_path)
        longer = replace(spec_from(server, sample=other), size_bytes=5)
        with pytest.raises(ModelDownloadFailed, match=r"correct model\.cid"):
            await fetch_model(longer, tmp_path)

    assert "tiny.gguf.bad" in names_in(tmp_path)
    assert "tiny.gguf" not in names_in(tmp_path)


async def test_nobody_has_it_says_what_to_do(tmp_path: Path) -> None:
    async with open_server(Sample.of(b"another")) as server:
        with pytest.raises(ModelDownloadFailed, match=r"s5\.portals or s5\.peers") as caught:
            await fetch_model(spec_from(server), tmp_path, patience=PATIENCE)

    assert isinstance(caught.value.__cause__, NotFound)


async def test_the_settings_name_the_identifier_and_the_places(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    async with open_server(SAMPLE) as portal, open_server(SAMPLE) as peer:
        p2p = peer.url.replace("http://", "ws://") + "/s5/p2p"
        digest = hashlib.sha256(GGUF).hexdigest()
        config.write_text(
            f'[model]\nrepo = "org/tiny"\nfile = "tiny.gguf"\nsha256 = "{digest}"\n'
            f'cid = "{SAMPLE.blob.encode()}"\n'
            f'[s5]\nportals = ["{portal.url}"]\npeers = ["{p2p}"]\n'
        )
        settings = load_settings(file=config, environ={}, overrides={})

        path = await fetch_model(model_spec(settings), tmp_path / "models")

    assert path.read_bytes() == GGUF
    assert portal.num_body_bytes > 0
    assert peer.num_body_bytes > 0
