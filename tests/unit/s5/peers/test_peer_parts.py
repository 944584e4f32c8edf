"""Rates, standing, remembered locations, URLs and searches of peers."""

from dataclasses import dataclass, replace

import anyio
import pytest

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.rates import TokenBucket
from fabstir.s5.formats.wire import HashQuery, LocationType, StorageLocation, sign_location
from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.locations import LocationCache
from fabstir.s5.peers.search import Searches
from fabstir.s5.peers.standing import Standing
from fabstir.s5.peers.urls import http_origin, is_http_url, node_id, parse_peer_url

KEY = NATIVE.ed25519_public_key(b"\x01" * 32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Clock:
    """Time as the test says."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def location(blob: int, *, seed: int = 1, expiry: int = 2000) -> StorageLocation:
    return sign_location(
        bytes([seed]) * 32,
        HashQuery(hash=Multihash(bytes([blob]) * 32), types=(3,)),
        location_type=LocationType.FILE,
        expiry=expiry,
        parts=(f"http://{seed}",),
        crypto=NATIVE,
    )


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 4.0, clock)

    assert [bucket.try_take() for _ in range(5)] == [True] * 4 + [False]
    clock.now += 1
    assert [bucket.try_take() for _ in range(3)] == [True, True, False]
    clock.now += 100
    assert bucket.take(4) == 0
    assert bucket.take(3) == 1.5
    assert not bucket.try_take()


def test_a_liar_is_avoided_for_longer_each_time() -> None:
    clock = Clock()
    standing = Standing(600.0, clock)

    standing.lied(KEY)
    assert standing.seconds_avoided(KEY) == 600
    clock.now += 600
    assert not standing.is_avoided(KEY)
    standing.lied(KEY)
    assert standing.seconds_avoided(KEY) == 1200
    for _ in range(20):
        standing.lied(KEY)
    assert standing.seconds_avoided(KEY) == 86_400
    assert not standing.is_avoided("ws://other")


def test_small_faults_add_up_unless_something_was_given() -> None:
    standing = Standing(600.0, Clock())

    assert [standing.strike(KEY) for _ in range(2)] == [False, False]
    standing.served(KEY)
    standing.served(b"unknown")
    assert [standing.strike(KEY) for _ in range(3)] == [False, False, True]
    assert standing.is_avoided(KEY)


def test_so_many_are_remembered_and_no_more() -> None:
    standing = Standing(600.0, Clock())

    for i in range(4097):
        standing.lied(str(i))

    assert not standing.is_avoided("0")
    assert standing.is_avoided("1")


def test_locations_are_remembered_until_they_expire() -> None:
    clock = Clock()
    cache = LocationCache(PeerLimits(), clock)
    short, long = location(1, expiry=1500), location(1, seed=2)
    cache.add(short)
    cache.add(long)

    assert cache.get(short.hash) == (short, long)
    clock.now = 1500
    assert cache.get(short.hash) == (long,)
    clock.now = 2000
    assert cache.get(short.hash) == ()
    assert cache.get(short.hash) == ()


def test_no_location_is_believed_for_ever() -> None:
    clock = Clock()
    cache = LocationCache(PeerLimits(max_lifetime=10), clock)
    cache.add(location(1, expiry=(1 << 32) - 1))

    clock.now += 10

    assert cache.get(Multihash(b"\x01" * 32)) == ()


def test_the_cache_is_bounded() -> None:
    cache = LocationCache(PeerLimits(max_cached_blobs=2, max_locations=1), Clock())
    first, other = location(1), location(1, seed=2)
    cache.add(first)
    cache.add(other)
    newer = replace(first, parts=("http://newer",))
    cache.add(newer)
    cache.add(location(2))

    assert cache.get(first.hash) == (newer,)
    cache.add(location(3))
    assert cache.get(Multihash(b"\x02" * 32)) == ()
    assert cache.get(first.hash) == (newer,)


def test_locations_and_nodes_are_forgotten() -> None:
    cache = LocationCache(PeerLimits(), Clock())
    one, two, three = location(1), location(1, seed=2), location(2)
    for each in (one, two, three):
        cache.add(each)

    cache.drop(two)
    assert cache.get(one.hash) == (one,)
    cache.drop_node(one.public_key)
    assert cache.get(one.hash) == cache.get(three.hash) == ()
    cache.drop(three)


def test_a_peers_url_may_name_its_id() -> None:
    plain = parse_peer_url("ws://127.0.0.1:5522/s5/p2p")
    named = parse_peer_url(f"wss://{node_id(KEY)}@node.example/s5/p2p")

    assert (plain.url, plain.public_key) == ("ws://127.0.0.1:5522/s5/p2p", None)
    assert (named.url, named.public_key) == ("wss://node.example/s5/p2p", KEY)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://a",
        "ws://",
        "ws://a:b/",
        "ws://a:0/",
        "ws://[",
        "ws://me@a/",
        "ws://zz@a/",
        "ws://ä/",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_peer_url(url)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("ws://127.0.0.1:5522/s5/p2p", "http://127.0.0.1:5522"),
        ("wss://Node.example/s5/p2p", "https://node.example"),
        ("http://127.0.0.1:5522/s5/blob/z1", "http://127.0.0.1:5522"),
        ("https://node.example:443/a", "https://node.example"),
        ("http://127.0.0.1:5522@evil/", ""),
        ("http://127.0.0.1:5522\\@evil/", ""),
        ("", ""),
    ],
)
def test_a_nodes_door_is_told_from_others(url: str, origin: str) -> None:
    assert http_origin(url) == origin


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("http://a/b", True),
        ("https://a:1/b", True),
        ("file:///etc/passwd", False),
        ("http://user:pass@a/", False),
        ("http:///b", False),
        ("http://a b/", False),
        ("http://a/b?c", False),
        ("http://a/b#c", False),
        ("http://a/../b", False),
        ("http://ä/", False),
        ("http://xn--/", False),
        ("http://a:99999/", False),
        ("", False),
    ],
)
def test_locations_are_web_addresses(url: str, is_one: bool) -> None:
    assert is_http_url(url) == is_one


@pytest.mark.anyio
async def test_who_asks_the_same_shares_the_answers() -> None:
    searches = Searches[str, int](8, 2)
    asked: list[str] = []

    def send(_question_id: bytes) -> set[object]:
        asked.append("blob")
        return {"a", "b", "c", "d"}

    async with searches.ask("blob", send) as one, searches.ask("blob", send) as two:
        searches.answer("blob", "a", 1)
        searches.answer("other", "a", 9)
        searches.gone("b")
        searches.answer("blob", "c", 2)
        searches.answer("blob", "d", 3)  # beyond the most

        assert await two.collect(anyio.current_time() + 10, 10) == [1, 2]

    assert one is two
    assert asked == ["blob"]
    assert "blob" not in searches


@pytest.mark.anyio
async def test_a_search_ends_with_its_deadline_or_its_settling() -> None:
    searches = Searches[str, int](8, 8)

    async with searches.ask("blob", lambda _id: {"a", "b"}) as search:
        now = anyio.current_time()
        assert await search.answer(0, now) is None
        assert await search.collect(now, 10) == []
        searches.answer("blob", "a", 1)
        assert await search.collect(now + 10, 0.0) == [1]


@pytest.mark.anyio
async def test_only_so_many_searches_run() -> None:
    searches = Searches[str, int](1, 8)

    async with searches.ask("one", lambda _id: set[object]()):
        with anyio.move_on_after(0.01) as waiting:
            async with searches.ask("two", lambda _id: set[object]()):
                pytest.fail("it did not wait")

    assert waiting.cancelled_caught
