"""The same session for a program that is not asynchronous, and what of it may be printed."""

from __future__ import annotations

from dataclasses import dataclass

import anyio.to_thread
import pytest

from fabstir.chain.devnet import Devnet
from fabstir.config import Settings
from fabstir.db import open_journal_reader
from fabstir.db.renter import list_sessions
from fabstir.sdk import (
    ConfigError,
    Finished,
    Message,
    ReceiptVerified,
    SamplingParams,
    SessionInfo,
    SessionSettlement,
    Text,
    open_client,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

STORY = [Message("user", "Write a long story about a lighthouse.")]


@dataclass(frozen=True, slots=True)
class Seen:
    """What an app was given."""

    told: list[object]
    settlement: SessionSettlement
    infos: list[SessionInfo]
    num_tokens: int
    text: str


def use(settings: Settings) -> Seen:
    """A whole life of a session, resumed once."""
    told: list[object] = []
    with open_client(settings) as client:
        offer, *_ = client.find_hosts(payment_token="ETH")
        deposit = offer.token.parse("0.001")
        told += [client, client.tokens, offer, client.quote(offer, deposit), settings]
        with client.open_session(offer, deposit=deposit) as session:
            with session.chat(STORY, sampling=SamplingParams(max_tokens=80)) as answer:
                events = list(answer)
            told += [session, session.info, answer, *events]
            with pytest.raises(ConfigError, match="knows no session"):
                client.close_session("nothing")
        with client.resume_session(session.id) as resumed:
            assert resumed.tokens == session.tokens
            with resumed.chat(STORY, sampling=SamplingParams(max_tokens=400)) as stopped:
                assert not any(isinstance(event, Finished) for event in (next(stopped),))
            assert stopped.is_over
            settlement = resumed.close()
        told += [resumed, stopped, stopped.end, settlement, *client.balances()]
        infos = client.sessions()
    num_tokens = sum(event.num_tokens for event in events if isinstance(event, Text))
    assert any(isinstance(event, ReceiptVerified) for event in events)
    return Seen([*told, *infos], settlement, infos, num_tokens, answer.text)


@pytest.fixture
async def seen(renter_settings: Settings) -> Seen:
    return await anyio.to_thread.run_sync(use, renter_settings)


async def test_a_session_is_used_resumed_and_settled_without_a_loop_of_ones_own(
    seen: Seen, renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_journal_reader(renter_settings, "renter") as journal:
        contract = devnet.contracts.marketplace.address
        (row,) = await journal.read(
            lambda c: list_sessions(c, devnet.chain.chain_id, contract, unfinished_only=False)
        )
    (info,) = seen.infos
    secrets = (devnet.accounts[1].secret_key, row.session_secret, row.recovery_secret)

    assert seen.text
    assert seen.num_tokens == 80 < info.tokens_agreed < 480
    assert seen.settlement.is_settled
    assert seen.settlement.tokens_settled == info.tokens_settled == info.tokens_agreed
    assert (info.id, info.is_over) == (seen.settlement.session, True)
    for shown in (form(each) for each in seen.told for form in (repr, str)):
        assert not any(secret.hex() in shown or repr(secret)[2:-1] in shown for secret in secrets)
