"""One identity on two machines: both use the same account at a portal."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.s5.node.conftest import eventually, s5_settings

from fabstir.node.control import ask
from fabstir.node.s5 import S5Running, open_s5
from fabstir.node.s5_parts import PORTAL_ACCOUNTS_FILE, s5_control_path, s5_folder
from fabstir.protocol.s5.hidden_db import ACCOUNTS_PATH, hidden_db_keys
from fabstir.protocol.s5.registry import read_blob_pointer
from fabstir.storage.portals import AccountFile
from fabstir.telemetry.metrics import MetricsRegistry

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
            await AccountFile(s5_folder(settings) / PORTAL_ACCOUNTS_FILE).load(portal.url)
            for settings in (ours, fresh)
        ]

    assert made is not None
    assert found is not None
    assert made.seed == found.seed


async def _has_accounts(portal: S5Running, node: S5Running) -> bool:
    """Whether the portal has the node's accounts.json: its entry and its blob."""
    parts = node.parts
    root, crypto = parts.identity.hidden_db_root(), parts.identity.crypto
    key = hidden_db_keys(root, ACCOUNTS_PATH, crypto).public_key
    entry = await portal.parts.registry.get(key)
    if entry is None:
        return False
    return await portal.parts.store.size(read_blob_pointer(entry.data)) is not None
