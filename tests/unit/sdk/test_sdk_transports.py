"""A session by another transport and another way to pay, each of them one more file."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from tests.unit.doors.hosting import open_door
from tests.unit.protocol.exchange.meeting import HOST
from tests.unit.sdk.renting import FAR, GONE, NEAR, MemoryDialer, open_renting

from fabstir.primitives.errors import HostUnresponsive
from fabstir.protocol.exchange.streams import FrameStream
from fabstir.sdk import Message, SamplingParams
from fabstir.sdk.transports import Transports
from fabstir.sdk.websocket import WebSocketDialer
from fabstir.web.reach import Reach

pytestmark = pytest.mark.anyio

WORDS = [f"w{number} " for number in range(100)]
HELLO = [Message("user", "Hello")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_session_is_held_and_paid_for_without_socket_and_chain(tmp_path: Path) -> None:
    async with open_renting(tmp_path, WORDS) as renting:
        session = renting.session
        async with session.chat(HELLO) as answer:
            text = await answer.complete()
        async with session.chat(HELLO, sampling=SamplingParams(max_tokens=7)) as short:
            await short.complete()
        settlement = await session.close()

    assert text == "".join(WORDS)
    assert settlement.is_settled
    assert settlement.tokens_settled == session.info.tokens_agreed == 107
    assert settlement.host_paid == session.cost == settlement.deposit - settlement.refund
    assert renting.dialer.dialled == [NEAR]


async def test_who_is_cancelled_while_agreeing_to_a_receipt_has_agreed_to_it(
    tmp_path: Path,
) -> None:
    async with open_renting(tmp_path, WORDS) as renting:
        session = renting.session
        with anyio.CancelScope() as scope:

            async def cancelled() -> None:
                scope.cancel()
                await anyio.lowlevel.checkpoint()

            renting.rail.while_agreeing = cancelled
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=10)) as answer:
                await answer.complete()
        async with session.chat(HELLO, sampling=SamplingParams(max_tokens=3)) as short:
            await short.complete()

    assert scope.cancelled_caught
    assert session.tokens == 13


async def test_an_address_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    async with open_renting(tmp_path, WORDS, addresses=(GONE, FAR)) as renting:
        async with renting.session.chat(HELLO) as answer:
            await answer.complete()

        assert renting.dialer.dialled == [GONE, FAR]


async def test_a_host_that_moved_is_found_where_the_registry_has_it_now(tmp_path: Path) -> None:
    async with open_renting(tmp_path, WORDS, addresses=(GONE,), url=NEAR) as renting:
        async with renting.session.chat(HELLO) as answer:
            await answer.complete()

        assert renting.session.info.api_url == NEAR
        assert renting.dialer.dialled == [GONE, NEAR]


async def test_every_address_that_was_tried_is_named_with_the_reason(tmp_path: Path) -> None:
    addresses = (GONE, "/ip4/192.0.2.1/tcp/9000/p2p/peer")
    async with open_renting(tmp_path, WORDS, addresses=addresses) as renting:
        with pytest.raises(HostUnresponsive) as caught:
            async with renting.session.chat(HELLO):
                pass

    text = str(caught.value)
    assert f"host {HOST} at {GONE} cannot be reached: it is gone; " in text
    assert f"at {addresses[1]} cannot be reached: no transport of ours leads there" in text


async def test_addresses_are_measured_each_by_its_own_transport(tmp_path: Path) -> None:
    sockets = WebSocketDialer(Reach(allow_private=False))
    async with open_door(tmp_path) as host:
        transports = Transports([sockets, MemoryDialer(host)])

        measured = await transports.measure(
            [FAR, GONE, "http://127.0.0.1:1", NEAR], HOST, timeout=5
        )

    assert [(each.address, each.latency) for each in measured] == [(NEAR, 0.1), (FAR, 0.2)]
    assert [transports.can_dial(a) for a in (NEAR, "wss://h", "/ip4/192.0.2.1")] == [1, 1, 0]


class SilentDialer:
    """Connects, and hears nothing."""

    def can_dial(self, address: str) -> bool:
        return True

    async def dial(self, address: str, peer: str) -> FrameStream:
        await anyio.sleep_forever()
        raise AssertionError

    async def measure(self, address: str, peer: str) -> float:
        await anyio.sleep_forever()
        raise AssertionError


async def test_an_address_that_says_nothing_is_given_up_in_time() -> None:
    with pytest.raises(HostUnresponsive, match=r"at x does not answer: .* 0\.01 s; .* at y does"):
        await Transports([SilentDialer()]).measure(["x", "y"], HOST, timeout=0.01)
