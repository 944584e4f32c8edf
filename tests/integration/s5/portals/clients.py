"""Clients of a portal, with little patience."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import httpx
from tests.integration.s5.portals.faulty import FaultyPortal

from fabstir.crypto import NATIVE
from fabstir.s5.portals import OnRequest, Portal, PortalHttp, PortalPatience

PATIENCE = PortalPatience(
    connect_timeout=5,
    stall_timeout=5,
    answer_timeout=5,
    max_failures=3,
    first_delay=0.001,
    max_delay=0.01,
)
HASTY = PortalPatience(
    connect_timeout=0.2,
    stall_timeout=0.2,
    answer_timeout=0.2,
    max_failures=1,
    first_delay=0.001,
    max_delay=0.001,
)
"""For portals that stall: what is waited for never comes."""

SMALL = b"twelve bytes"
LARGE = random.Random(7).randbytes(5 * 1024 * 1024)
"""More than one upload at once takes."""


def client_of(
    faulty: FaultyPortal,
    client: httpx.AsyncClient,
    patience: PortalPatience = PATIENCE,
    on_request: OnRequest | None = None,
) -> Portal:
    http = PortalHttp(faulty.url, client, patience=patience, on_request=on_request)
    return Portal(http, NATIVE)


async def pieces(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
