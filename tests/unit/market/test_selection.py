"""Hosts are ranked by price and measured latency, in one reproducible order."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fabstir.market.selection import UNKNOWN, Candidate, HostHistory, choose, rank
from fabstir.primitives.ids import Address
from fabstir.primitives.units import PricePerToken

GOOD, SILENT = HostHistory(num_served=1), HostHistory(num_served=1, num_silent=2)


def address(number: int) -> Address:
    return Address(f"0x{number:040x}")


def candidate(number: int, price: int, latency: float, history: HostHistory = UNKNOWN) -> Candidate:
    return Candidate(
        host=address(number),
        price_per_token=PricePerToken(price),
        latency=latency,
        history=history,
    )


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


def test_a_host_that_served_well_keeps_its_renter_unless_it_is_undercut_by_a_tenth() -> None:
    known = candidate(2, 110, 0.1, GOOD)

    assert rank([candidate(1, 101, 0.1), known])[0] == known
    assert rank([candidate(1, 99, 0.1), known])[0] != known


def test_a_host_that_went_silent_comes_last_whatever_it_asks() -> None:
    silent, dear = candidate(1, 1, 0.0, SILENT), candidate(2, 10**9, 30.0)

    assert rank([silent, dear]) == (dear, silent)


def numbered(first: int, count: int) -> list[Address]:
    return [address(number) for number in range(first, first + count)]


def test_a_thousand_sybils_crowd_out_neither_who_served_well_nor_who_is_online() -> None:
    """They are registered, and the DHT announces all of them."""
    sybils, known, online = numbered(1000, 1000), numbered(1, 1), numbered(10, 1)

    found: list[bool] = []
    for seed in range(200):
        chosen = choose(
            [*sybils, *known, *online],
            known=known,
            announced=[*sybils[:20], *online],
            limit=32,
            random=Random(seed),
        )
        assert known[0] in chosen
        assert len(chosen) == len(set(chosen)) == 32
        found.append(online[0] in chosen)

    assert 0.4 < sum(found) / len(found) < 0.75


def test_lies_of_the_dht_leave_room_for_hosts_that_only_the_registry_knows() -> None:
    announced, quiet = numbered(1000, 100), numbered(1, 12)

    counts = [
        len(
            set(quiet).intersection(
                choose(
                    [*announced, *quiet], known=(), announced=announced, limit=32, random=Random(n)
                )
            )
        )
        for n in range(200)
    ]

    assert 2 < sum(counts) / len(counts) < 4


@given(
    st.sets(st.integers(0, 60)),
    st.sets(st.integers(0, 60)),
    st.sets(st.integers(0, 60)),
    st.integers(0, 40),
    st.randoms(),
)
def test_every_place_is_taken_once_and_by_a_registered_host(
    registered: set[int], known: set[int], announced: set[int], limit: int, random: Random
) -> None:
    listed = [address(number) for number in sorted(registered)]

    chosen = choose(
        listed,
        known=[address(number) for number in sorted(known)],
        announced=[address(number) for number in sorted(announced)],
        limit=limit,
        random=random,
    )

    assert set(chosen) <= set(listed)
    assert len(chosen) == len(set(chosen)) == min(limit, len(listed))
