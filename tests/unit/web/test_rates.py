"""Token buckets and slots, on a clock of our own."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from fabstir.primitives.errors import Busy
from fabstir.s5.door.guard import host_of, origin_host
from fabstir.web.addresses import address_group
from fabstir.web.rates import Queue, Rates, Slots


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_a_rate() -> None:
    clock = Clock()
    rates = Rates(2.0, 5, num_keys=10, clock=clock)

    for _ in range(5):
        rates.take("a")
    with pytest.raises(Busy) as caught:
        rates.take("a")
    rates.take("b")

    assert caught.value.retry_after == pytest.approx(0.5)
    clock.now = 0.5
    rates.take("a")
    with pytest.raises(Busy):
        rates.take("a")


@given(st.lists(st.floats(0, 3), max_size=60))
def test_never_more_than_burst_and_rate(pauses: list[float]) -> None:
    clock = Clock()
    rates = Rates(1.0, 3, num_keys=10, clock=clock)
    taken = 0

    for pause in pauses:
        clock.now += pause
        try:
            rates.take("a")
        except Busy:
            continue
        taken += 1

    assert taken <= 3 + clock.now + 1e-6


def test_only_so_many_keys_are_kept() -> None:
    rates = Rates(1.0, 1, num_keys=3, clock=Clock())

    for key in "abcd":
        rates.take(key)

    assert len(rates) == 3
    with pytest.raises(Busy):
        rates.take("d")
    rates.take("a")  # was forgotten


def test_slots() -> None:
    slots = Slots(2, "uploads")

    taken = (slots.hold("a"), slots.hold("a"), slots.hold("b"))
    refused = pytest.raises(Busy, match="a has 2 uploads at once")
    with taken[0], taken[1], taken[2], refused, slots.hold("a"):
        pass
    with slots.hold("a"), slots.hold("a"):
        pass


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_queue_lets_those_in_who_came_first() -> None:
    queue = Queue(1, "uploads", max_waiting=2, seconds=10)
    order: list[int] = []

    async def use(number: int) -> None:
        async with queue.hold("a"):
            order.append(number)
            await checkpoint()

    async with anyio.create_task_group() as tasks, queue.hold("a"):
        tasks.start_soon(use, 1)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(use, 2)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Busy, match="a has 1 uploads at once, and 2 more wait"):
            async with queue.hold("a"):
                pytest.fail("a third one waited")
        async with queue.hold("b"):
            pass
        assert order == []

    assert order == [1, 2]
    async with queue.hold("a"):
        pass


@pytest.mark.anyio
async def test_a_queue_forgets_who_waits_no_more() -> None:
    queue = Queue(1, "uploads", max_waiting=9, seconds=0.01)

    async with queue.hold("a"):
        with pytest.raises(Busy):
            async with queue.hold("a"):
                pytest.fail("it did not wait")
        with anyio.move_on_after(0):
            async with queue.hold("a"):
                pytest.fail("it did not wait")
    async with queue.hold("a"):
        pass


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_addresses_of_one_network_are_counted_together(address: str, key: str) -> None:
    assert address_group(address) == key


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("Example.org:80", "example.org"),
        ("example.org", "example.org"),
        ("[::1]:5522", "::1"),
        ("[::1]", "::1"),
        ("", ""),
        (":80", ":80"),
    ],
)
def test_hosts(authority: str, host: str) -> None:
    assert host_of(authority) == host


@given(st.text())
def test_any_origin_has_a_host_or_none(origin: str) -> None:
    assert origin_host(origin) == origin_host(origin).lower()


def test_origins() -> None:
    assert origin_host("https://App.example:8443") == "app.example"
    assert origin_host("null") == ""
    assert origin_host("http://[::1") == ""
