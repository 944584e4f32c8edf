"""A model by its S5 identifier, from two nodes: put once, fetched by anybody, believed never."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest
from anyio import to_thread
from anyio.streams.buffered import BufferedByteReceiveStream
from tests.integration.s5.transfer.server import Conduct, Sample, Server, noise, open_server

from fabstir.cli.app import run
from fabstir.config import Settings, load_settings
from fabstir.models import DEMO_MODEL, ModelSpec, Patience, S5Source, fetch_model
from fabstir.models.wanted import model_spec, with_source
from fabstir.node.models import s5_places
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ModelDownloadFailed, ModelHashMismatch, NotFound
from fabstir.primitives.ids import hash32
from fabstir.s5.run.build import S5Running, open_s5
from fabstir.s5.transfer.fetch import BlobSource
from fabstir.s5.verified.tree import GROUP_BYTES
from fabstir.telemetry.metrics import MetricsRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ROOT = Path(__file__).resolve().parents[4]
GGUF = b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + noise(18_000_000, seed=20)
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
    conduct = Conduct(stall_after=20 * GROUP_BYTES)  # it never gets to the end
    async with open_server(SAMPLE, conduct) as one, open_server(SAMPLE, conduct) as two:
        spec = spec_from(one, two)
        script = Path(__file__).with_name("model_child.py")
        command = [sys.executable, str(script), SAMPLE.blob.encode(), spec.sha256, str(tmp_path)]
        command += [one.url, two.url]
        async with await anyio.open_process(command, cwd=ROOT, stderr=None) as child:
            assert child.stdout is not None
            lines = BufferedByteReceiveStream(child.stdout)
            kept = 0
            with anyio.fail_after(30):
                while kept < GROUP_BYTES:
                    kept = int((await lines.receive_until(b"\n", 100)).split()[0])
            child.kill()
            await child.wait()
        conduct.stall_after = None
        one.ranges.clear()
        two.ranges.clear()

        path = await fetch_model(spec, tmp_path)

        assert path.read_bytes() == GGUF
        again = {
            group
            for start, end in one.ranges + two.ranges
            for group in range(start // GROUP_BYTES, -(-end // GROUP_BYTES))
        }
        assert len(again) <= -(-len(GGUF) // GROUP_BYTES) - kept // GROUP_BYTES


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


def settings_of(folder: Path, **overrides: str) -> Settings:
    folder.mkdir()
    (folder / "config.toml").touch()
    chosen = {"paths.data_dir": str(folder / "data"), "metrics.port": "0", "s5.port": "0"}
    chosen["network.allow_private"] = "true"
    chosen |= {
        "model.repo": "org/tiny",
        "model.file": "tiny.gguf",
        "model.sha256": hashlib.sha256(GGUF).hexdigest(),
        "model.cid": SAMPLE.blob.encode(),
    }
    return load_settings(file=folder / "config.toml", environ={}, overrides={**chosen, **overrides})


def model_of(settings: Settings, s5: S5Running) -> ModelSpec:
    return with_source(model_spec(settings.model), settings.model, s5_places(s5))


async def put_model(s5: S5Running) -> None:
    blob = await s5.parts.store.put(GGUF, owner="files", reason="model")
    assert blob == SAMPLE.blob


async def test_a_host_gets_it_from_the_nodes_of_its_settings(tmp_path: Path) -> None:
    async with (
        open_s5(settings_of(tmp_path / "one"), MetricsRegistry()) as one,
        open_s5(settings_of(tmp_path / "two"), MetricsRegistry()) as two,
    ):
        await put_model(one)
        await put_model(two)
        places = {"s5.portals": one.url, "s5.peers": two.p2p_uri}
        settings = settings_of(tmp_path / "host", **places)
        async with open_s5(settings, MetricsRegistry()) as host:
            with anyio.fail_after(30):
                await host.parts.peers.wait_connected()
                path = await fetch_model(model_of(settings, host), tmp_path / "models")
            kept = await host.parts.store.size(SAMPLE.blob.multihash)

    assert path.read_bytes() == GGUF
    assert kept is None  # in its own folder, and not in the store a second time


async def test_what_was_put_on_this_machine_needs_nobody(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "host")
    async with open_s5(settings, MetricsRegistry()) as host:
        await put_model(host)

        path = await fetch_model(model_of(settings, host), tmp_path / "models")

    assert path.read_bytes() == GGUF


@pytest.mark.parametrize("place", ["s5.port", "s5.portals"])
async def test_the_command_pulls_it_from_the_node_that_runs_and_from_portals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    settings = settings_of(tmp_path / "node")
    async with open_s5(settings, MetricsRegistry()) as node:
        await put_model(node)
        own = httpx.URL(node.local_url).port if place == "s5.port" else 1
        chosen = [
            f"paths.cache_dir={tmp_path}",
            f"s5.port={own}",
            f"s5.portals={node.url if place == 's5.portals' else ''}",
            "network.allow_private=true",
        ]
        options = [part for each in chosen for part in ("--set", each)]
        command = ["models", "pull", SAMPLE.blob.encode(), "--name", "org/tiny:tiny.gguf"]
        config = ["--config", str(settings.file), "--json"]

        code = await to_thread.run_sync(run, [*config, *options, *command])

    said = capsys.readouterr()
    assert code == 0, said.err
    assert json.loads(said.out)["sha256"] == hashlib.sha256(GGUF).hexdigest()
    assert (tmp_path / "models/org/tiny/tiny.gguf").read_bytes() == GGUF


async def test_without_an_identifier_it_comes_from_where_it_always_does(tmp_path: Path) -> None:
    (config := tmp_path / "config.toml").touch()
    settings = load_settings(file=None, environ={"FABSTIR_CONFIG": str(config)}, overrides={})

    async def find(_blob: BlobId) -> Sequence[BlobSource]:
        raise AssertionError("nothing of S5 is asked for")

    assert with_source(model_spec(settings.model), settings.model, find) == DEMO_MODEL
