"""What the tests of the gate do with a session, in words."""

from __future__ import annotations

import secrets

import pytest
from tests.e2e.harness import (
    DEPOSIT,
    Wallet,
    check_money,
)
from tests.e2e.raw_client import OpenedSession, RawClient, Refused

from fabstir.chain.devnet import Devnet
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import PRICE_PRECISION, PricePerToken

STORY = "Write a long story about a lighthouse keeper and the sea."

PAYS_FOR_100 = PricePerToken(DEPOSIT * PRICE_PRECISION // 100)
"""So dear that the deposit pays for 100 tokens."""

IMPATIENT = {
    "host.reconnect_grace_seconds": "0.5",
    "host.acknowledgement_timeout_seconds": "2",
}

FORGIVING = {"host.reconnect_grace_seconds": "10"}
"""Long enough to come back, also after a start, and short enough to wait for."""


def new_key() -> bytes:
    return secrets.token_bytes(32)


async def open_as_depositor(client: RawClient, job_id: JobId, wallet: Wallet) -> OpenedSession:
    """As our SDK does it."""
    key = new_key()
    offer = client.authorize(job_id, wallet.signer.secret_key, key)
    return await client.open(job_id, key, offer=offer)


async def refusal(client: RawClient, job_id: JobId, key: bytes, **init: object) -> str:
    """The code with which the host refuses a handshake."""
    with pytest.raises(Refused) as refused:
        await client.send_init(client.make_init(job_id, key, **init), key)  # pyright: ignore[reportArgumentType] - the names are make_init's
    return refused.value.code


async def settled_as(
    devnet: Devnet, wallet: Wallet, job_id: JobId, tokens: int, *, unused: JobId | None = None
) -> None:
    """The depositor ends it; on chain are `tokens` and every unit of money.

    Args:
        unused: another session of the wallet, to which nothing may be billed.
    """
    if unused is not None:
        await wallet.settle_now(unused)
    await wallet.settle_now(job_id)
    await check_money(devnet, job_id, tokens)
    if unused is not None:
        await check_money(devnet, unused, 0)
