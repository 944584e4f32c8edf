"""Request targets in absolute form, as a client behind a proxy sends them to every door."""

from __future__ import annotations

import pytest
from tests.integration.web.served import open_served

from fabstir.web.inbound.connections import DoorLimits

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.mark.parametrize("target", ["/hello", "http://127.0.0.1/hello", "http://[::1]:80/hello?x"])
async def test_every_form_of_a_target(target: str) -> None:
    async with open_served(DoorLimits()) as served:
        assert (await served.get(target)).endswith(b"hello")
