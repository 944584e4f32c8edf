from __future__ import annotations

import random
from collections.abc import Callable

import libp2p.kad_dht.value_store as libp2p_values
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.pb.kademlia_pb2 import Message, Record
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from fabstir.p2p import _stores
from fabstir.p2p._providers import ProviderSample, group_of_addresses
from fabstir.p2p._stores import BoundedPeerStore, FairProviderStore, FairValueStore, take_turns
from fabstir.p2p.limits import (
    MAX_KNOWN_PEERS,
    MAX_PEER_ADDRESSES,
    MAX_PEER_PROTOCOLS,
    MAX_PROVIDER_ADDRESSES,
    MAX_PROVIDERS,
    MAX_STORED_PROVIDERS,
)

OWN = ID(b"own")


def peer(number: int) -> ID:
    return ID(b"peer" + number.to_bytes(4, "big"))


def at(host: str) -> list[Multiaddr]:
    return [Multiaddr(f"/ip4/{host}/tcp/9000")]


class LocalHost:
    """All that the library's provider store asks of a host."""

    def get_id(self) -> ID:
        return OWN


def provider_store(group_of: Callable[[ID], str]) -> FairProviderStore:
    return FairProviderStore(LocalHost(), group_of, random.Random(7))  # pyright: ignore[reportArgumentType] - see above


def test_a_thousand_peers_cost_the_node_neither_its_key_nor_its_friends() -> None:
    """The library forgets whoever has no address first, which is the node itself."""
    kept = {OWN, peer(0)}
    store = BoundedPeerStore(kept.__contains__)
    pair = create_new_key_pair()
    store.add_key_pair(own := ID.from_pubkey(pair.public_key), pair)
    kept.add(own)

    for number in range(MAX_KNOWN_PEERS + 500):
        store.add_addrs(peer(number), at("192.0.2.1"), 60)

    assert len(store.peer_ids()) == MAX_KNOWN_PEERS
    assert store.privkey(own) == pair.private_key
    assert store.has_peer(peer(0))
    assert not store.has_peer(peer(1))
    assert store.has_peer(peer(MAX_KNOWN_PEERS + 499))


def test_a_peer_may_say_only_so_much_of_itself() -> None:
    store = BoundedPeerStore(lambda _: False)

    for number in range(100):
        store.add_addr(peer(1), Multiaddr(f"/ip4/192.0.2.1/tcp/{number + 1}"), 60)
        store.add_protocols(peer(1), [f"/protocol/{number}", "x" * 1000])

    assert len(store.addrs(peer(1))) == MAX_PEER_ADDRESSES
    assert len(store.get_protocols(peer(1))) == MAX_PEER_PROTOCOLS
    assert max(map(len, store.get_protocols(peer(1)))) < 1000


def test_one_address_does_not_crowd_out_the_providers_of_others() -> None:
    """The library keeps the first twenty of a key for two days."""
    honest = [peer(number) for number in range(5)]
    store = provider_store(lambda each: f"own-{each}" if each in honest else "attacker")
    for number in range(5, 1000):
        store.add_provider(b"key", PeerInfo(peer(number), at("192.0.2.66")))

    for each in honest:
        store.add_provider(b"key", PeerInfo(each, at("192.0.2.1")))
    for number in range(1000, 2000):
        store.add_provider(b"key", PeerInfo(peer(number), at("192.0.2.66")))

    answer = [each.peer_id for each in store.get_providers(b"key")]
    assert len(answer) == MAX_STORED_PROVIDERS
    assert set(honest) <= set(answer[:6])


def test_our_own_record_is_not_crowded_out() -> None:
    store = provider_store(lambda _: "")
    store.add_provider(b"key", PeerInfo(OWN, at("192.0.2.1")))

    for number in range(500):
        store.add_provider(b"key", PeerInfo(peer(number), at("192.0.2.1")))

    assert OWN in [each.peer_id for each in store.get_providers(b"key")]


def test_a_record_that_nobody_renews_makes_room_first(monkeypatch: pytest.MonkeyPatch) -> None:
    store = provider_store(lambda _: "")
    for number in range(MAX_STORED_PROVIDERS):
        store.add_provider(b"key", PeerInfo(peer(number), at("192.0.2.1")))
    store.providers[b"key"][str(peer(3))].timestamp -= 2 * 3600

    store.add_provider(b"key", PeerInfo(peer(999), at("192.0.2.1")))

    assert peer(3) not in [each.peer_id for each in store.get_providers(b"key")]


def test_keys_are_bounded_and_ours_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stores, "MAX_PROVIDED_KEYS", 10)
    store = provider_store(lambda _: "")
    store.add_provider(b"ours", PeerInfo(OWN, at("192.0.2.1")))

    for number in range(100):
        store.add_provider(number.to_bytes(2, "big"), PeerInfo(peer(1), at("192.0.2.1")))

    assert len(store.providers) == 10
    assert store.get_providers(b"ours")


def test_one_address_does_not_crowd_out_the_keys_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also not where it was first under their key, or came after them."""
    monkeypatch.setattr(_stores, "MAX_PROVIDED_KEYS", 10)
    groups = {peer(1): "honest", peer(2): "honest", peer(3): "another"}
    store = provider_store(lambda each: groups.get(each, "attacker"))
    honest = {b"model": peer(1), b"shared": peer(2), b"third": peer(3)}
    store.add_provider(b"shared", PeerInfo(peer(66), at("192.0.2.66")))
    for key, each in honest.items():
        store.add_provider(key, PeerInfo(each, at("192.0.2.1")))
    store.add_provider(b"third", PeerInfo(peer(66), at("192.0.2.66")))

    for number in range(100):
        provider = PeerInfo(peer(100 + number), at("192.0.2.66"))
        store.add_provider(number.to_bytes(2, "big"), provider)

    assert len(store.providers) == 10
    for key, each in honest.items():
        assert each in [provider.peer_id for provider in store.get_providers(key)]


def test_one_address_does_not_crowd_out_the_host_records_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library forgets the oldest, whosever it is, also when a value is only renewed."""
    monkeypatch.setattr(_stores, "MAX_STORED_RECORDS", 10)
    monkeypatch.setattr(libp2p_values, "MAX_VALUE_STORE_SIZE", 10)
    groups = {b"own": None, b"honest": "honest"}
    store = FairValueStore(
        LocalHost(),  # pyright: ignore[reportArgumentType] - see above
        OWN,
        lambda key: groups.get(key, "attacker"),
    )
    for key in groups:
        store.put_record(key, Record(key=key, timeReceived="2026-01-01T00:00:00Z"))

    for number in range(100):
        key = number.to_bytes(2, "big")
        store.put_record(key, Record(key=key, timeReceived="2026-01-02T00:00:00Z"))
        store.put_record(key, Record(key=key, timeReceived="2026-01-03T00:00:00Z"))

    assert store.size() == 10
    assert all(store.get(key) is not None for key in groups)


@given(st.lists(st.sampled_from("abcde"), max_size=40))
def test_every_group_has_its_turn(groups: list[str]) -> None:
    numbered = list(enumerate(groups))

    ordered = take_turns(numbered, lambda item: item[1], random.Random(1))

    assert sorted(ordered) == numbered
    num_groups = len(set(groups))
    assert len({group for _, group in ordered[:num_groups]}) == num_groups


def answer_of(peers: list[tuple[ID, str]]) -> Message:
    answer = Message()
    for each, host in peers:
        answer.providerPeers.add(id=each.to_bytes(), addrs=[at(host)[0].to_bytes()])
    return answer


def test_a_lying_peer_has_one_turn_like_any_other() -> None:
    honest = [(peer(number), f"192.0.2.{number + 1}") for number in range(10)]
    sample = ProviderSample(OWN, random.Random(3))
    for liar in range(40):
        first = 1000 + liar * 1000
        sybils = [(peer(first + n), f"198.51.{n % 250}.1") for n in range(1000)]
        sample.add_answer(peer(100 + liar), answer_of(sybils))
    for server in range(20):
        sample.add_answer(peer(200 + server), answer_of(honest))

    chosen = [each.peer_id for each in sample.chosen()]

    assert len(chosen) == MAX_PROVIDERS
    assert len({each for each, _ in honest} & set(chosen)) == 10


def test_identities_of_one_address_do_not_fill_the_sample() -> None:
    """33 of them filled an answer of 20."""
    honest = [(peer(number), f"192.0.2.{number + 1}") for number in range(3)]
    sybils = [(peer(100 + number), "198.51.100.1") for number in range(60)]
    sample = ProviderSample(OWN, random.Random(3))
    for server in range(20):
        sample.add_answer(peer(500 + server), answer_of(sybils + honest))

    chosen = [each.peer_id for each in sample.chosen()]

    assert {each for each, _ in honest} <= set(chosen[:8])


def test_addresses_of_a_provider_are_bounded_over_all_answers() -> None:
    sample = ProviderSample(OWN, random.Random(3))
    for server in range(20):
        named = [
            PeerInfo(peer(1), [Multiaddr(f"/ip4/192.0.2.1/tcp/{server * 8 + n + 1}")])
            for n in range(8)
        ]
        sample.add(peer(500 + server), named)

    [chosen] = sample.chosen()

    assert len(chosen.addrs) == MAX_PROVIDER_ADDRESSES


def test_we_are_no_provider_for_ourselves() -> None:
    sample = ProviderSample(OWN, random.Random(3))
    sample.add(peer(1), [PeerInfo(OWN, at("192.0.2.1"))])

    assert sample.chosen() == []


def test_what_has_no_ip_has_no_group() -> None:
    assert group_of_addresses([Multiaddr("/dns4/host.example/tcp/1")]) == ""
    assert group_of_addresses([Multiaddr("/ip6/2001:db8::1/tcp/1")]) == "2001:db8::/64"
