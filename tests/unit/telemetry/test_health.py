"""Checks are asked together, and the worst one decides."""

import anyio
import pytest

from fabstir.primitives.errors import RpcUnavailable
from fabstir.telemetry import CheckResult, HealthChecks

pytestmark = pytest.mark.anyio


async def fine() -> CheckResult:
    return CheckResult("ok")


async def slow_disk() -> CheckResult:
    return CheckResult("degraded", "disk at 95 %")


async def no_chain() -> CheckResult:
    raise RpcUnavailable("http://127.0.0.1:1 does not answer: start the node")


async def test_nothing_to_check_is_ok() -> None:
    assert (await HealthChecks({}).report()).status == "ok"


async def test_the_worst_check_decides() -> None:
    report = await HealthChecks({"engine": fine, "disk": slow_disk}).report()

    assert report.status == "degraded"
    assert report.checks == {"engine": await fine(), "disk": await slow_disk()}


async def test_an_error_is_the_reason() -> None:
    report = await HealthChecks({"chain": no_chain, "disk": slow_disk}).report()

    assert report.status == "failing"
    assert report.checks["chain"].reason == "http://127.0.0.1:1 does not answer: start the node"
    assert list(report.checks) == ["chain", "disk"]


async def test_a_check_that_hangs_fails_by_itself() -> None:
    async def hangs() -> CheckResult:
        await anyio.sleep_forever()
        raise AssertionError

    report = await HealthChecks({"p2p": hangs, "disk": fine}, timeout=0.01).report()

    assert report.checks["p2p"] == CheckResult("failing", "no answer within 0.01 s")
    assert report.checks["disk"].status == "ok"
