"""One identity on two machines: both use the same account at a portal."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.s5.run.conftest import eventually, s5_settings

from fabstir.config import Settings
from fabstir.s5.formats.hidden_db import ACCOUNTS_PATH, hidden_db_keys
from fabstir.s5.formats.limits import MAX_MUTABLE_BYTES
from fabstir.s5.formats.registry import read_blob_pointer
from fabstir.s5.portals import PortalAccount
from fabstir.s5.run.build import S5Running, open_s5
from fabstir.s5.run.parts import s5_control_path, s5_folder
from fabstir.s5.run.portal_accounts import account_file
from fabstir.telemetry.metrics import MetricsRegistry
from fabstir.web.control import ask

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def test_a_new_machine_enters_the_account_that_the_other_one_made(tmp_path: Path) -> None:
    async with open_s5(s5_settings(tmp_path / "portal"), MetricsRegistry()) as portal:
        identity = str(tmp_path / "s5.identity")
        ours = s5_settings(tmp_path / "a", identity=identity, portals=portal.url, replicas="2")
        async with open_s5(ours, MetricsRegistry()) as first:
            await ask(s5_control_path(ours), "login", {"url": portal.url})
            await eventually(lambda: _has_accounts(portal, first))
        fresh = s5_settings(tmp_path / "b", identity=identity, portals=portal.url)
        async with open_s5(fresh, MetricsRegistry()):
            await ask(s5_control_path(fresh), "login", {"url": portal.url})

        made, found = [
            await account_file(s5_folder(settings)).load(portal.url) for settings in (ours, fresh)
        ]

    assert made is not None
    assert found is not None
    assert made.seed == found.seed


@pytest.mark.parametrize("has_tried", [False, True])
async def test_a_new_machine_enters_it_also_where_nobody_says_so(
    tmp_path: Path, has_tried: bool
) -> None:
    async with open_s5(s5_settings(tmp_path / "portal"), MetricsRegistry()) as portal:
        first, second = _machines(tmp_path, portal)
        async with open_s5(first, MetricsRegistry()) as node:
            await eventually(lambda: _has_accounts(portal, node))
        if has_tried:  # while the portal was away: the seed is there, and no account
            file = account_file(s5_folder(second))
            await file.save(PortalAccount(portal.url, b"\7" * 32))
        async with open_s5(second, MetricsRegistry()) as node:
            await eventually(lambda: _is_entered(node))

        made, found = [await _account(settings, portal) for settings in (first, second)]

    assert made is not None
    assert found is not None
    assert made.seed == found.seed


async def test_no_second_account_is_made_while_the_first_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_s5(s5_settings(tmp_path / "portal"), MetricsRegistry()) as portal:
        first, second = _machines(tmp_path, portal)
        async with open_s5(first, MetricsRegistry()) as node:
            await eventually(lambda: _has_accounts(portal, node))
            entry = await portal.parts.registry.get(_accounts_key(node))
            assert entry is not None
            blob = read_blob_pointer(entry.data)
            content = await portal.parts.store.get(blob, max_bytes=MAX_MUTABLE_BYTES)
        (account,) = [name async for name, _ in portal.parts.store.owners()]
        await portal.parts.store.unpin(account, [blob])
        await portal.parts.store.collect(grace_seconds=0)

        async with open_s5(second, MetricsRegistry()) as node:
            warned = await eventually(lambda: _warnings(caplog))
            before = await _account(second, portal)
            # It can be read again: a machine that was away comes back, say.
            await node.parts.store.put(content, owner="test", reason="test")
            await eventually(lambda: _is_entered(node))
        made, found = [await _account(settings, portal) for settings in (first, second)]

    assert "fabstir s5 login" in warned[0]
    assert before is None
    assert made is not None
    assert found is not None
    assert made.seed == found.seed


def _machines(folder: Path, portal: S5Running) -> tuple[Settings, Settings]:
    """Two of one identity, which copy to a portal."""
    identity = str(folder / "s5.identity")
    settings = {"identity": identity, "portals": portal.url, "replicas": "2"}
    return s5_settings(folder / "a", **settings), s5_settings(folder / "b", **settings)


async def _account(settings: Settings, portal: S5Running) -> PortalAccount | None:
    return await account_file(s5_folder(settings)).load(portal.url)


async def _is_entered(node: S5Running) -> bool:
    return all(portal.session.token is not None for portal in node.parts.pool.portals)


async def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(vars(record)["reason"]) for record in caplog.records if record.msg == "no account"]


def _accounts_key(node: S5Running) -> bytes:
    identity = node.parts.identity
    keys = hidden_db_keys(identity.hidden_db_root(), ACCOUNTS_PATH, identity.crypto)
    return keys.public_key


async def _has_accounts(portal: S5Running, node: S5Running) -> bool:
    """Whether the portal has the node's accounts.json: its entry and its blob."""
    entry = await portal.parts.registry.get(_accounts_key(node))
    if entry is None:
        return False
    return await portal.parts.store.size(read_blob_pointer(entry.data)) is not None
