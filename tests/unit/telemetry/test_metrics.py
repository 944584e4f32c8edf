"""The registry's names, and the listener's life."""

import threading

import httpx
import pytest

from fabstir.primitives.errors import ConfigError
from fabstir.telemetry.metrics import MetricsRegistry, open_metrics_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def fetch(port: int) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"http://127.0.0.1:{port}/metrics")
    assert response.status_code == 200
    return response.text


async def test_what_was_counted_is_served_under_our_prefix() -> None:
    registry = MetricsRegistry()
    registry.counter("tokens", "Tokens.", ["model"]).labels("demo").inc(64)
    registry.gauge("sessions_active", "Sessions.").set(2)
    registry.histogram("ttft_seconds", "Time to first token.", buckets=[0.1, 1]).observe(0.5)

    async with open_metrics_server(registry, 0) as port:
        text = await fetch(port)

    assert 'fabstir_tokens_total{model="demo"} 64.0' in text
    assert "fabstir_sessions_active 2.0" in text
    assert 'fabstir_ttft_seconds_bucket{le="1.0"} 1.0' in text
    assert "process_resident_memory_bytes" in text


async def test_a_taken_port_is_named_with_its_setting() -> None:
    async with open_metrics_server(MetricsRegistry(), 0) as port:
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*metrics\.port"):
            async with open_metrics_server(MetricsRegistry(), port):
                pass


async def test_leaving_the_block_stops_it() -> None:
    threads = threading.active_count()
    async with open_metrics_server(MetricsRegistry(), 0) as port:
        await fetch(port)

    with pytest.raises(httpx.ConnectError):
        await fetch(port)
    async with open_metrics_server(MetricsRegistry(), port):
        await fetch(port)
    assert threading.active_count() <= threads + 1  # anyio keeps one idle worker thread


async def test_one_name_is_one_metric() -> None:
    registry = MetricsRegistry()
    registry.counter("tokens", "Tokens.")

    with pytest.raises(ValueError, match="Duplicated"):
        registry.counter("tokens", "Others.")
