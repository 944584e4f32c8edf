"""Which connections give way, and whose memory is given up, on a clock of our own."""

from __future__ import annotations

import pytest

from fabstir.web.inbound import connections as module
from fabstir.web.inbound.connections import (
    FRAMES_BURST,
    Connections,
    DoorLimits,
    OpenConnection,
    parse_proxies,
)

MIB = 1 << 20
PROXY = "10.9.9.9"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """Connections, and which of them were cut."""

    def __init__(self, max_connections: int = 1000) -> None:
        self.clock = Clock()
        self.cut: list[OpenConnection] = []
        self.connections = Connections(
            DoorLimits(max_connections=max_connections, trusted_proxies=parse_proxies([PROXY])),
            monotonic=self.clock,
        )

    def admit(self, address: str, *, is_proven: bool = False) -> OpenConnection:
        admitted = self.connections.admit(address)
        assert isinstance(admitted, OpenConnection), admitted
        admitted.abort = lambda: self.cut.append(admitted)
        if is_proven:
            admitted.prove()
        return admitted

    def forward(self, address: str, *, is_proven: bool = False) -> OpenConnection:
        admitted = self.admit(PROXY)
        admitted.is_forwarded_for(address)
        if is_proven:
            admitted.prove()
        return admitted

    def begin_message(self, connection: OpenConnection, num_bytes: int) -> None:
        self.clock.now += 1.0
        connection.has_unfinished(num_bytes)


def test_where_all_are_proven_the_newest_of_who_has_most_gives_way() -> None:
    door = Door(max_connections=6)
    payer = door.admit("10.0.0.1", is_proven=True)
    many = [door.admit("10.0.0.2", is_proven=True) for _ in range(5)]

    newcomer = door.admit("10.0.0.3")

    assert door.cut == [many[-1]]
    newcomer.prove()
    assert isinstance(door.connections.admit("10.0.0.2"), str), "they do not take turns"
    assert payer not in door.cut


def test_the_only_place_of_who_pays_is_not_taken() -> None:
    door = Door(max_connections=3)
    for i in range(3):
        door.admit(f"10.0.0.{i}", is_proven=True)

    assert isinstance(door.connections.admit("10.0.1.1"), str)
    assert door.cut == []


def test_the_unproven_give_way_before_the_proven() -> None:
    door = Door(max_connections=4)
    for _ in range(3):
        door.admit("10.0.0.1", is_proven=True)
    single = door.admit("10.0.0.2")

    door.admit("10.0.0.3")

    assert door.cut == [single]


def test_what_was_shown_can_lapse_and_be_shown_again() -> None:
    door = Door()
    connection = door.admit("10.0.0.1")
    told: list[str] = []
    connection.on_proven = lambda: told.append("proven")
    connection.on_unproven = lambda: told.append("unproven")

    connection.unprove()
    connection.prove()
    connection.unprove()
    connection.unprove()
    connection.prove()

    assert told == ["proven", "unproven", "proven"]


def test_half_messages_of_one_address_do_not_cut_anothers() -> None:
    door = Door()
    honest = door.admit("10.0.0.1")
    door.begin_message(honest, 3 * MIB)
    attackers = [door.admit(f"10.0.1.{i % 6}") for i in range(30)]

    for each in attackers:
        door.begin_message(each, 3 * MIB)

    assert honest not in door.cut
    assert attackers[-1] not in door.cut
    kept = sum(each.unfinished_bytes for each in attackers if each not in door.cut)
    assert kept + 3 * MIB <= module.MAX_UNFINISHED_BYTES


def test_one_address_has_so_many_unfinished_bytes() -> None:
    door = Door()
    several = [door.admit("10.0.0.1") for _ in range(6)]
    other = door.admit("10.0.0.2")
    door.begin_message(other, 4 * MIB)

    for each in several:
        door.begin_message(each, 4 * MIB)

    assert door.cut == several[:2], "the oldest of that address"
    several[2].leave()
    door.begin_message(several[2], 4 * MIB)
    several[5].has_unfinished(0)
    door.begin_message(several[5], 4 * MIB)
    assert len(door.cut) == 2, "who has left counts for nothing"


@pytest.mark.parametrize("is_known", [False, True])
def test_one_client_of_a_proxy_slows_no_other(is_known: bool) -> None:
    door = Door()
    one = door.forward("8.8.8.8") if is_known else door.admit(PROXY)
    same = door.forward("8.8.8.8") if is_known else one
    other = door.forward("9.9.9.9") if is_known else door.admit(PROXY)

    one.frames.take(FRAMES_BURST + 1000)

    assert same.frames.take(1) > 0
    assert other.frames.take(1) == 0


def test_who_has_most_places_behind_a_proxy_gives_way() -> None:
    door = Door(max_connections=6)
    honest = door.forward("9.9.9.9")
    many = [door.forward("8.8.8.8") for _ in range(4)]
    direct = door.admit("10.0.0.1")

    through_proxy = door.forward("7.7.7.7")
    door.admit("10.0.0.2")

    assert door.cut == many[:2]
    assert not {honest, direct, through_proxy} & set(door.cut)


def test_what_one_client_of_a_proxy_has_shown_counts_for_no_other() -> None:
    door = Door()
    connection = door.forward("9.9.9.9", is_proven=True)

    connection.is_forwarded_for("8.8.8.8")

    assert not connection.is_proven


def test_nobody_but_a_proxy_is_forwarded_for() -> None:
    door = Door()
    connection = door.admit("10.0.0.1", is_proven=True)

    connection.is_forwarded_for("9.9.9.9")

    assert (connection.key, connection.is_proven) == ("10.0.0.1", True)
