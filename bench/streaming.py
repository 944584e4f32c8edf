"""What a host adds to its engine: time to first token, tokens per second, processor per token.

One engine, two ways to it, in turn: asked directly over its own HTTP, and through `fabstir`'s
door: WebSocket, gate, encryption, receipts, acknowledgements, journal. Host and client are two
processes, as in life; the engine is a third. Each way's prompt is in the engine's cache, so that
prefill does not drown the difference.

Without arguments it runs whole; `--rounds 1 --streams 1 --tokens 8` only shows that it runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from math import nan
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
from fabstir.telemetry.background import running

STREAMS = (1, 8, 32)
WATCH_SECONDS = 0.1
IDLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of each way, alternating, per number of streams.
        tokens: of an answer.
    """

    streams: tuple[int, ...] = STREAMS
    rounds: int = 12
    tokens: int = 64


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


async def main(plan: Plan) -> None:
    """Run and print the table."""
    with tempfile.TemporaryDirectory(prefix="fabstir-bench-") as name:
        folder = Path(name)
        model = DevModel(DEMO_MODEL.repo, DEMO_MODEL.file, DEMO_MODEL.sha256)
        async with open_devnet(folder, [model], DevnetParameters(port=0)) as devnet:
            settings = await _home(folder / "host", devnet, 0, _host_overrides(plan))
            async with open_host(settings, confirm=_yes, on_progress=_progress) as host:
                bootstrap = {"p2p.bootstrap": host.p2p.addresses[0], "p2p.port": "0"}
                renter = await _home(folder / "renter", devnet, 1, bootstrap)
                watch = ProcessWatch()
                async with running(watch.run):
                    await anyio.sleep(IDLE_SECONDS)  # what nobody's tokens cost
                    rows = await _load(host, renter, bootstrap, plan)
                _print_table(rows, host, watch, plan)


def _host_overrides(plan: Plan) -> dict[str, str]:
    return {
        "host.port": "0",
        "p2p.port": "0",
        "metrics.port": "0",
        "s5.port": "0",
        # A slot for each way of each stream: none evicts the other's prompt.
        "model.num_slots": str(2 * max(plan.streams)),
        "model.max_model_len": "512",
    }


@dataclass(slots=True)
class ProcessWatch:
    """This process, looked at every few milliseconds: (when, processor so far, how late)."""

    samples: list[tuple[float, float, float]] = field(
        default_factory=list[tuple[float, float, float]]
    )

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            due = time.monotonic() + WATCH_SECONDS
            await anyio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            self.samples.append((now, time.process_time(), now - due))

    def cpu(self, began: float, ended: float) -> float:
        """Seconds of processor in a time, to the precision of a look."""
        seen = [cpu for at, cpu, _late in self.samples if began <= at <= ended]
        return seen[-1] - seen[0] if seen else 0.0

    def idle(self) -> float:
        """Seconds of processor that a second took before anything was asked."""
        began = self.samples[0][0]
        return self.cpu(began, began + IDLE_SECONDS) / IDLE_SECONDS

    def lags(self, began: float, ended: float) -> list[float]:
        """How many seconds late the event loop came back to its looks in a time."""
        return [late for at, _cpu, late in self.samples if began <= at <= ended]


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


async def _load(
    host: Host, renter: Settings, overrides: dict[str, str], plan: Plan
) -> list[dict[str, Any]]:
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
        streams=plan.streams,
        num_rounds=plan.rounds,
        num_tokens=plan.tokens,
    )
    text = json.dumps({**asdict(orders), "overrides": overrides}).encode()
    command = [sys.executable, "-m", "bench.load"]
    done = await anyio.run_process(command, input=text, stderr=sys.stderr)
    return json.loads(done.stdout)


def _print_table(rows: list[dict[str, Any]], host: Host, watch: ProcessWatch, plan: Plan) -> None:
    (model,) = host.models
    info = model.info
    print(f"\n{info.model}, {info.num_slots} slots; {info.tuning}")
    print(
        f"{plan.tokens} tokens an answer, each way's prompt in the engine's cache, {plan.rounds} "
        "rounds each way in turn"
    )
    print(f"An idle host takes {watch.idle() * 1000:.0f} ms of processor a second.\n")
    print(
        "streams | TTFT direct p50/p99 | TTFT host p50/p99 | added p50 | added p99 | "
        "tok/s direct | tok/s host | ratio (median of rounds) | CPU us/token host + renter | "
        "CPU us/token of a direct reader | host's loop lag p99"
    )
    print(" | ".join(["---"] * 11))
    for row in rows:
        direct, ours = row["direct"], row["host"]
        d_ttft, h_ttft = _ttft(direct), _ttft(ours)
        d_speed, h_speed = _speeds(direct), _speeds(ours)
        ratio = median(h / d for h, d in zip(h_speed, d_speed, strict=True))
        num_tokens = sum(each["num_tokens"] for each in ours)
        spent = sum(watch.cpu(each["began"], each["ended"]) for each in ours)
        lags = [lag for each in ours for lag in watch.lags(each["began"], each["ended"])]
        print(
            f"{row['streams']} | {_ms(median(d_ttft))} / {_ms(_p99(d_ttft))} | "
            f"{_ms(median(h_ttft))} / {_ms(_p99(h_ttft))} | "
            f"{_ms(median(h_ttft) - median(d_ttft))} | {_ms(_p99(h_ttft) - _p99(d_ttft))} | "
            f"{median(d_speed):.1f} | {median(h_speed):.1f} | {ratio * 100:.1f} % | "
            f"{_us(spent, num_tokens)} + {_us(_cpu(ours), num_tokens)} | "
            f"{_us(_cpu(direct), sum(each['num_tokens'] for each in direct))} | "
            f"{_ms(_p99(lags))}"
        )


def _ttft(rounds: list[dict[str, Any]]) -> list[float]:
    return [seconds for each in rounds for seconds in each["ttft"]]


def _speeds(rounds: list[dict[str, Any]]) -> list[float]:
    return [each["num_tokens"] / (each["ended"] - each["began"]) for each in rounds]


def _cpu(rounds: list[dict[str, Any]]) -> float:
    return sum(each["cpu"] for each in rounds)


def _us(seconds: float, num_tokens: int) -> str:
    return f"{seconds / num_tokens * 1e6:.0f}"


def _p99(values: list[float]) -> float:
    if len(values) < 2:
        return nan  # of a short run
    return quantiles(values, n=100, method="inclusive")[98]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
