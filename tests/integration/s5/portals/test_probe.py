"""What can be found out about a portal, whatever it does."""

from __future__ import annotations

import httpx
import pytest
from tests.integration.s5.door.door import open_door
from tests.integration.s5.portals.clients import HASTY, PATIENCE
from tests.integration.s5.portals.faulty import FaultyPortal
from tests.integration.s5.portals.raw_http import Alter, Answer, Refuse, Stall, always, refuse

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import ConfigError
from fabstir.s5.portals import PortalReport, probe

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


def found(report: PortalReport) -> dict[str, bool | None]:
    return {check.name: check.ok for check in report.checks}


def why(report: PortalReport, name: str) -> str:
    return next(check.detail for check in report.checks if check.name == name)


async def test_an_open_portal_can_do_everything(
    faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    report = await probe(faulty.url, http_client, NATIVE, patience=PATIENCE)

    assert report.ok("upload")
    assert report.ok("download")
    assert {name for name, ok in found(report).items() if ok is not True} == {"clean up"}
    assert report.seconds is not None
    assert why(report, "tus") == "resumable uploads work, at most 1099511627776 bytes"


async def test_our_own_node_passes_with_an_account(
    tmp_path_factory: pytest.TempPathFactory, http_client: httpx.AsyncClient
) -> None:
    async with open_door(tmp_path_factory.mktemp("probed")) as door:
        account = await door.account()
        mine = await probe(door.url, http_client, NATIVE, token=account.token)
        strangers = await probe(door.url, http_client, NATIVE)
        usage = await door.store.usage()

    assert set(found(mine).values()) == {True}, mine.checks
    assert not strangers.ok("upload")
    for name in ("upload", "registry write"):
        assert found(strangers)[name] is None
        assert why(strangers, name) == f"needs an account: fabstir s5 login {door.url}"
    assert found(strangers)["download"] is None
    assert found(strangers)["registry read"] is True
    assert usage.num_blobs == 2


async def test_a_closed_portal_says_why(
    faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    faulty.is_open = False
    faulty.has_tus = False
    faulty.fail("GET /s5/account/register", refuse(401, b"No auth token found"))
    faulty.fail("GET /s5/p2p/nodes", always(Answer(200, b'{"nodes":[]}')))

    report = await probe(faulty.url, http_client, NATIVE, patience=PATIENCE)

    assert not report.ok("upload")
    assert found(report)["register"] is False
    assert "No auth token found" in why(report, "register")
    assert found(report)["p2p"] is False
    assert found(report)["tus"] is False


async def test_lies_are_reported(faulty: FaultyPortal, http_client: httpx.AsyncClient) -> None:
    other = Alter(lambda a: Answer(a.status, bytes(len(a.body)), a.headers))
    faulty.fail("GET /s5/download", other, other)
    faulty.fail("GET /s5/registry", Refuse(Answer(200, b"{}")))

    report = await probe(faulty.url, http_client, NATIVE, patience=PATIENCE)

    assert "other bytes" in why(report, "download")
    assert found(report)["ranges"] is False
    assert found(report)["registry read"] is False


async def test_nobody_there_and_a_portal_that_stalls(
    faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    faulty.fail("GET /s5/version", Stall())

    stalled = await probe(faulty.url, http_client, NATIVE, patience=HASTY)
    nobody = await probe("http://127.0.0.1:1", http_client, NATIVE, patience=HASTY)

    for report in (stalled, nobody):
        assert report.seconds is None
        assert [check.ok for check in report.checks] == [False] + [None] * 11
    assert "in time" in why(stalled, "reachable")
    assert "no connection" in why(nobody, "reachable")


async def test_what_is_no_url_is_an_error(http_client: httpx.AsyncClient) -> None:
    with pytest.raises(ConfigError):
        await probe("s5.example", http_client, NATIVE)
