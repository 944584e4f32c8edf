from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.p2p._admission import ConnectionLimits, InboundPlaces, Slot
from fabstir.web.addresses import address_group

LIMITS = ConnectionLimits(pending=6, pending_per_address=3, inbound=6, inbound_per_address=3)


class Place:
    """A connection's side of its slot."""

    def __init__(self, admission: InboundPlaces, host: str, now: float) -> None:
        self.is_cut = False
        self.slot: Slot = admission.admit(host, self._cut, now)

    def _cut(self) -> None:
        self.is_cut = True


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_an_address_is_counted_by_what_one_customer_has(host: str, group: str) -> None:
    assert address_group(host) == group


def test_the_silent_make_room_before_those_that_spoke() -> None:
    admission = InboundPlaces(LIMITS)
    first, second, third = (Place(admission, "192.0.2.1", now) for now in (1.0, 2.0, 3.0))
    first.slot.has_spoken = True

    Place(admission, "192.0.2.1", 4.0)

    assert [place.is_cut for place in (first, second, third)] == [False, True, False]


def test_a_full_house_takes_from_whoever_has_most() -> None:
    admission = InboundPlaces(LIMITS)
    many = [Place(admission, "192.0.2.1", now) for now in (1.0, 2.0, 3.0)]
    few = [Place(admission, host, 0.0) for host in ("192.0.2.2", "192.0.2.3", "192.0.2.4")]

    Place(admission, "192.0.2.5", 4.0)

    assert [place.is_cut for place in many] == [True, False, False]
    assert not any(place.is_cut for place in few)
    assert admission.num_pending == 6


def test_the_idle_make_room_before_the_busy() -> None:
    admission = InboundPlaces(LIMITS)
    places = [Place(admission, "192.0.2.1", now) for now in (1.0, 2.0, 3.0)]
    for number, place in enumerate(places):
        place.slot.has_spoken = True
        admission.establish(place.slot, bytes([number]), lambda number=number: number == 0)
    late = Place(admission, "192.0.2.1", 4.0)

    assert admission.establish(late.slot, b"late", bool)

    assert [place.is_cut for place in places] == [False, True, False]


def test_one_peer_has_two_connections() -> None:
    admission = InboundPlaces(LIMITS)
    hosts = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
    places = [Place(admission, host, float(now)) for now, host in enumerate(hosts)]

    for place in places:
        admission.establish(place.slot, b"same", bool)

    assert [place.is_cut for place in places] == [True, False, False]


def test_who_was_cut_in_its_handshake_is_not_let_in() -> None:
    admission = InboundPlaces(LIMITS)
    first = Place(admission, "192.0.2.1", 0.0)
    for now in (1.0, 2.0, 3.0):
        Place(admission, "192.0.2.1", now)

    assert not admission.establish(first.slot, b"first", bool)
    assert admission.num_inbound == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]), st.booleans()),
        max_size=60,
    )
)
def test_nobody_is_refused_and_no_bound_is_passed(comers: list[tuple[str, bool]]) -> None:
    admission = InboundPlaces(LIMITS)
    for number, (host, finishes) in enumerate(comers):
        place = Place(admission, host, float(number))
        assert not place.is_cut
        if finishes:
            assert admission.establish(place.slot, bytes([number]), bool)
            assert not place.is_cut
        assert admission.num_pending <= LIMITS.pending
        assert admission.num_inbound <= LIMITS.inbound
    assert admission.num_admitted == len(comers)


@pytest.mark.parametrize("num_descriptors", [64, 128, 256, 1024, 1 << 20])
def test_libp2p_never_takes_the_last_descriptors(num_descriptors: int) -> None:
    limits = ConnectionLimits.within(num_descriptors)

    assert limits.total <= max(num_descriptors / 4, 6)
    assert limits.pending_per_address < limits.pending or num_descriptors < 128


def test_a_common_limit_of_descriptors_leaves_the_defaults() -> None:
    assert ConnectionLimits.within(1024) == ConnectionLimits()
