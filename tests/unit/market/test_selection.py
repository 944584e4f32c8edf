"""Hosts are ranked by price and measured latency, in one reproducible order."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fabstir.market.selection import Candidate, rank
from fabstir.primitives.ids import Address
from fabstir.primitives.units import PricePerToken


def candidate(number: int, price: int, latency: float) -> Candidate:
    host = Address(f"0x{number:040x}")
    return Candidate(host=host, price_per_token=PricePerToken(price), latency=latency)


candidates = st.builds(
    candidate,
    st.integers(0, 1 << 32),
    st.integers(1, 1 << 90),
    st.floats(0, 30, allow_nan=False),
)


def test_the_cheaper_of_two_equally_near_hosts_comes_first() -> None:
    cheap, dear = candidate(2, 100, 0.02), candidate(1, 101, 0.02)

    assert rank([dear, cheap]) == (cheap, dear)


def test_the_nearer_of_two_equally_dear_hosts_comes_first() -> None:
    near, far = candidate(2, 100, 0.02), candidate(1, 100, 0.021)

    assert rank([far, near]) == (near, far)


def test_a_second_of_latency_weighs_as_much_as_the_price_itself() -> None:
    slow, twice_as_dear = candidate(1, 100, 1.0), candidate(2, 200, 0.0)

    assert slow.effective_price() == twice_as_dear.effective_price()
    assert rank([twice_as_dear, slow]) == (slow, twice_as_dear)


def test_without_a_share_for_latency_only_prices_count() -> None:
    slow, dear = candidate(1, 100, 30.0), candidate(2, 101, 0.0)

    assert rank([dear, slow], latency_share=0) == (slow, dear)


@given(st.lists(candidates, max_size=8, unique_by=lambda c: c.host), st.randoms())
def test_the_order_does_not_depend_on_who_was_found_first(
    found: list[Candidate], random: Random
) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)

    ranked = rank(shuffled)

    assert ranked == rank(found)
    assert sorted(ranked, key=hash) == sorted(found, key=hash)


@given(candidates, st.integers(1, 1000), st.floats(0.001, 5))
def test_a_host_never_gains_by_asking_more_or_answering_later(
    host: Candidate, more: int, later: float
) -> None:
    worse_price = PricePerToken(host.price_per_token + more)
    dearer = Candidate(host=host.host, price_per_token=worse_price, latency=host.latency)
    slower = Candidate(
        host=host.host, price_per_token=host.price_per_token, latency=host.latency + later
    )

    assert dearer.effective_price() > host.effective_price()
    assert slower.effective_price() > host.effective_price()
