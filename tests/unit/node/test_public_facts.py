"""What existing clients read of a host before they talk to it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from fabstir.chain.deployment import Deployment
from fabstir.config import ChainSettings
from fabstir.crypto import checksum_address
from fabstir.node.public_facts import chains_answer, health_answer
from fabstir.primitives.errors import RpcUnavailable
from fabstir.primitives.ids import Address, ChainId
from fabstir.telemetry.health import CheckResult, HealthChecks, HealthReport, Status
from fabstir.telemetry.supervision import Supervision

DEPLOYMENT = Deployment(
    chain_id=ChainId(84532),
    block_number=1,
    contracts_hash="00",
    model_registry=Address("0x" + "1a" * 20),
    node_registry=Address("0x" + "2b" * 20),
    job_marketplace=Address("0x" + "3c" * 20),
    proof_system=Address("0x" + "4d" * 20),
    host_earnings=Address("0x" + "5e" * 20),
    fab_token=Address("0x" + "6f" * 20),
    usdc=Address("0x" + "7a" * 20),
)
SECRET_URL = "https://rpc.example/v2/an-api-key"
SETTINGS = ChainSettings(
    rpc_url=SECRET_URL, ws_url="wss://rpc.example/an-api-key", chain_id=ChainId(84532)
)


def chain_of(settings: ChainSettings) -> dict[str, Any]:
    answer = cast("dict[str, Any]", chains_answer(settings, DEPLOYMENT))
    assert answer["default_chain"] == settings.chain_id
    (chain,) = answer["chains"]
    return chain


def test_the_chain_in_the_documented_shape() -> None:
    chain = chain_of(SETTINGS)

    assert {name: chain[name] for name in ("chain_id", "name", "native_token", "rpc_url")} == {
        "chain_id": 84532,
        "name": "Base Sepolia",
        "native_token": "ETH",
        "rpc_url": "",
    }
    assert chain["contracts"]["job_marketplace"] == checksum_address(DEPLOYMENT.job_marketplace)
    assert set(chain["contracts"]) == set(DEPLOYMENT.contracts())


def test_the_hosts_own_endpoint_is_not_told() -> None:
    public = replace(SETTINGS, public_rpc_url="https://public.example")

    told = json.dumps([chain_of(SETTINGS), chain_of(public)])

    assert "api-key" not in told
    assert "rpc.example" not in told
    assert chain_of(public)["rpc_url"] == "https://public.example"


def test_an_unknown_chain_has_a_name_all_the_same() -> None:
    assert chain_of(replace(SETTINGS, chain_id=ChainId(7)))["name"] == "chain 7"


@pytest.mark.anyio
async def test_health_tells_strangers_no_place_of_the_hosts_own() -> None:
    async def chain() -> CheckResult:
        raise RpcUnavailable(f"{SECRET_URL} does not answer")

    async def task() -> None:
        await chain()

    supervision = Supervision()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervision.keep, "follower", task)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    report = await HealthChecks({"chain": chain, "tasks": supervision.check}).report()
    answer = cast("dict[str, Any]", health_answer(report))

    assert answer["issues"] == ["chain: the host cannot ask the chain", "tasks: it is degraded"]
    assert SECRET_URL in report.checks["chain"].reason
    assert SECRET_URL in supervision.complaints()[0]


@pytest.mark.parametrize(
    ("status", "word", "is_healthy"),
    [("ok", "healthy", True), ("degraded", "degraded", True), ("failing", "unhealthy", False)],
)
def test_health_is_a_word_and_a_boolean(status: Status, word: str, is_healthy: bool) -> None:
    report = HealthReport(status, {"chain": CheckResult(status, "why")})

    answer = health_answer(report)

    assert answer == {
        "status": word,
        "healthy": is_healthy,
        "issues": [] if status == "ok" else ["chain: why"],
    }
