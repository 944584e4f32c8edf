"""What health, status and metrics say when no peer gets in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.integration.p2p.conftest import OpenNode

from fabstir.crypto import NATIVE
from fabstir.node.reachability import P2PMetrics, Reachability
from fabstir.p2p import P2PConfig, P2PNode, open_p2p
from fabstir.p2p._bridge import Bridge
from fabstir.p2p._core import P2PCore
from fabstir.p2p._workarounds import swarm_of
from fabstir.telemetry.metrics import MetricsRegistry

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


def reachability_of(node: P2PNode) -> tuple[Reachability, MetricsRegistry]:
    registry = MetricsRegistry()
    return Reachability(node, P2PMetrics.of(registry)), registry


async def go_deaf(node: P2PNode) -> None:
    """Close the listeners under the running node, and let it look."""

    async def close(core: P2PCore) -> None:
        addresses = core.host.get_transport_addrs()
        for listener in swarm_of(core.host).listeners.values():
            await listener.close()
        await core.self_check.look(addresses)

    bridge: Bridge[Any] = vars(node)["_bridge"]
    await bridge.call(close, timeout=20)


async def test_a_deaf_host_says_so_everywhere(open_node: OpenNode) -> None:
    node = await open_node()
    reachability, registry = reachability_of(node)
    with anyio.fail_after(10):
        while (await node.inbound()).age is None:
            await anyio.sleep(0.01)
    assert (await reachability.check()).status == "ok"

    await go_deaf(node)

    result = await reachability.check()
    reachability.metrics.show(await node.inbound())
    assert result.status == "degraded"
    assert "nobody gets in on /ip4/127.0.0.1/tcp/" in result.reason
    assert "looked at 0 s ago: restart the host" in result.reason
    assert registry.collector.get_sample_value("fabstir_p2p_open") == 0


async def test_a_libp2p_thread_that_is_gone_is_noticed(
    make_config: Callable[..., P2PConfig],
) -> None:
    async with open_p2p(make_config(), NATIVE) as node:
        reachability, _ = reachability_of(node)

    assert await reachability.problem() is not None
    assert (await reachability.check()).status == "degraded"
