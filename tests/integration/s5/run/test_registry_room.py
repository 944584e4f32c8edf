"""How many registry entries whoever comes may have a node keep."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from pathlib import Path

import httpx
import pytest
from tests.integration.s5.run.conftest import s5_settings

from fabstir.crypto import NATIVE
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.run.build import open_s5
from fabstir.telemetry.metrics import MetricsRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


def _body(seed: int, revision: int) -> dict[str, str | int]:
    entry = sign_entry(bytes([seed]) * 32, revision, b"data", NATIVE)
    parts = {
        "pk": encode_multikey(entry.public_key),
        "data": entry.data,
        "signature": entry.signature,
    }
    texts = {name: urlsafe_b64encode(part).decode().rstrip("=") for name, part in parts.items()}
    return {**texts, "revision": entry.revision}


async def test_who_fills_the_registry_does_not_stop_the_node_s_own_files(tmp_path: Path) -> None:
    settings = s5_settings(tmp_path, max_registry_entries="1")
    async with open_s5(settings, MetricsRegistry()) as node:
        token = node.token_file.read_text(encoding="ascii").strip()
        async with httpx.AsyncClient(
            base_url=node.local_url, headers={"Authorization": f"Bearer {token}"}
        ) as client:
            taken, refused, newer = [
                await client.post("/s5/registry", json=_body(seed, revision))
                for seed, revision in ((1, 1), (2, 1), (1, 2))
            ]
        await node.parts.files.put("deep/folder/file", b"ours")
        kept = await node.parts.files.get("deep/folder/file", max_bytes=100)

    assert (taken.status_code, refused.status_code, newer.status_code) == (204, 507, 204)
    assert refused.json()["error_type"] == "registry_full"
    assert "s5.max_registry_entries" in refused.json()["message"]
    assert kept == b"ours"
