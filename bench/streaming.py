"""What a host adds to its engine: time to first token and tokens per second.

One engine, two ways to it, in turn: asked directly over its own HTTP, and through `fabstir`'s
door: WebSocket, gate, encryption, receipts, acknowledgements, journal. Host and client are two
processes, as in life; the engine is a third. The prompt is in the engine's cache on both ways, so
that prefill does not drown the difference.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import anyio
import platformdirs

from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.cli.host_process import prepare_wallet
from fabstir.config import Settings, load_settings
from fabstir.engines.llamacpp import LlamaCppEngine
from fabstir.models import DEMO_MODEL
from fabstir.node.build import Host, open_host
from fabstir.node.registration import RegistrationPlan

STREAMS = (1, 4, 8)
NUM_ROUNDS = 12
"""Rounds of each way, alternating, per number of streams."""
NUM_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Orders:
    """What the load process gets on standard input."""

    engine_host: str
    engine_port: int
    engine_key: str
    renter_config: str
    streams: tuple[int, ...]
    num_rounds: int
    num_tokens: int


async def main() -> None:
    """Run and print the table."""
    with tempfile.TemporaryDirectory(prefix="fabstir-bench-") as name:
        folder = Path(name)
        model = DevModel(DEMO_MODEL.repo, DEMO_MODEL.file, DEMO_MODEL.sha256)
        async with open_devnet(folder, [model], DevnetParameters(port=0)) as devnet:
            settings = await _home(folder / "host", devnet, 0, _host_overrides())
            async with open_host(settings, confirm=_yes, on_progress=_progress) as host:
                bootstrap = {"p2p.bootstrap": host.p2p.addresses[0], "p2p.port": "0"}
                renter = await _home(folder / "renter", devnet, 1, bootstrap)
                _print_table(await _load(host, renter, bootstrap), host)


def _host_overrides() -> dict[str, str]:
    return {
        "host.port": "0",
        "p2p.port": "0",
        "metrics.port": "0",
        "s5.port": "0",
        "model.num_slots": str(max(STREAMS)),
        "model.max_model_len": "1024",
    }


async def _yes(_plan: RegistrationPlan) -> bool:
    return True


def _progress(what: str, how_far: str) -> None:
    print(f"{what}: {how_far}", file=sys.stderr)


async def _home(folder: Path, devnet: Devnet, account: int, more: dict[str, str]) -> Settings:
    await anyio.Path(folder).mkdir()
    await prepare_wallet(folder, devnet.accounts[account])
    sections: dict[str, dict[str, object]] = {
        "chain": {"rpc_url": devnet.rpc_url, "deployment": str(devnet.deployment_path)},
        "network": {"allow_private": True},
        "paths": {"data_dir": "data", "cache_dir": str(platformdirs.user_cache_path("fabstir"))},
    }
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    config = folder / "config.toml"
    await anyio.Path(config).write_text("\n".join(lines) + "\n")
    return load_settings(file=config, environ={}, overrides=more)


async def _load(host: Host, renter: Settings, overrides: dict[str, str]) -> list[dict[str, Any]]:
    """Run the load process and return its measurements."""
    (model,) = host.models
    async with model.acquire() as engine:
        assert isinstance(engine, LlamaCppEngine)
        address = engine.address
    orders = Orders(
        engine_host=address.host,
        engine_port=address.port,
        engine_key=address.api_key,
        renter_config=str(renter.file),
        streams=STREAMS,
        num_rounds=NUM_ROUNDS,
        num_tokens=NUM_TOKENS,
    )
    text = json.dumps({**asdict(orders), "overrides": overrides}).encode()
    command = [sys.executable, "-m", "bench.load"]
    done = await anyio.run_process(command, input=text, stderr=sys.stderr)
    return json.loads(done.stdout)


def _print_table(rows: list[dict[str, Any]], host: Host) -> None:
    (model,) = host.models
    info = model.info
    print(f"\n{info.model}, {info.num_slots} slots; {info.tuning}")
    print(
        f"{NUM_TOKENS} tokens an answer, prompt in the engine's cache, {NUM_ROUNDS} rounds each "
        "way in turn\n"
    )
    print(
        "streams | TTFT direct p50/p99 | TTFT host p50/p99 | added p50 | added p99 | "
        "tok/s direct | tok/s host | ratio"
    )
    print("--- | --- | --- | --- | --- | --- | --- | ---")
    for row in rows:
        direct, ours = row["direct"], row["host"]
        d50, d99 = median(direct["ttft"]), _p99(direct["ttft"])
        h50, h99 = median(ours["ttft"]), _p99(ours["ttft"])
        d_speed, h_speed = median(direct["speed"]), median(ours["speed"])
        print(
            f"{row['streams']} | {_ms(d50)} / {_ms(d99)} | {_ms(h50)} / {_ms(h99)} | "
            f"{_ms(h50 - d50)} | {_ms(h99 - d99)} | {d_speed:.1f} | {h_speed:.1f} | "
            f"{h_speed / d_speed * 100:.1f} %"
        )


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
