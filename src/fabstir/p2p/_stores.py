"""What the node remembers of others, bounded: the library's stores (libp2p 0.8.1) are not.

- Its peerstore keeps a thousand addresses of every peer, and beyond a thousand peers it forgets
  those first that have no address: such as this node itself, with its private key.
- Its provider store takes any number of keys, and of each key the first twenty providers, for two
  days: twenty peer ids made in a second shut out every host that comes after them.
- Its value store forgets the oldest value, whosever it is, so one address with many peer ids makes
  it forget everybody else's.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Final, TypeVar

from libp2p.abc import IHost
from libp2p.kad_dht.pb.kademlia_pb2 import Record
from libp2p.kad_dht.provider_store import ProviderRecord, ProviderStore
from libp2p.kad_dht.value_store import ValueStore
from libp2p.peer.envelope import Envelope
from libp2p.peer.id import ID
from libp2p.peer.peerdata import PeerData
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from multiaddr import Multiaddr

from fabstir.p2p.limits import (
    MAX_KNOWN_PEERS,
    MAX_PEER_ADDRESSES,
    MAX_PEER_PROTOCOLS,
    MAX_PROVIDED_KEYS,
    MAX_PROVIDER_ADDRESSES,
    MAX_STORED_PROVIDERS,
    MAX_STORED_RECORDS,
    PROVIDER_FRESHNESS,
)

ItemT = TypeVar("ItemT")
EntryT = TypeVar("EntryT")
GroupOf = Callable[[ID], str]
"""The address group from which a peer is connected; "" if it is not."""

_MAX_PROTOCOL_LENGTH: Final = 128


class _PeerTable(dict[ID, PeerData]):
    """Forgets the peer that was learned first when there are too many, but none that is kept."""

    def __init__(self, is_kept: Callable[[ID], bool]) -> None:
        super().__init__()
        self._is_kept = is_kept

    def setdefault(self, peer_id: ID, default: PeerData, /) -> PeerData:  # pyright: ignore[reportIncompatibleMethodOverride] - the library gives a default each time
        if peer_id not in self:
            self[peer_id] = default
        return self[peer_id]

    def __setitem__(self, peer_id: ID, data: PeerData, /) -> None:
        if peer_id not in self and len(self) >= MAX_KNOWN_PEERS:
            victim = next((known for known in self if not self._is_kept(known)), None)
            if victim is not None:
                del self[victim]
        super().__setitem__(peer_id, data)


class BoundedPeerStore(PeerStore):
    """The library's, with at most MAX_KNOWN_PEERS peers and bounded facts about each."""

    def __init__(self, is_kept: Callable[[ID], bool]) -> None:
        """
        Args:
            is_kept: whether a peer must not be forgotten: it is connected, or asked often.
        """
        # The library's own limit evicts whoever has no address first: that is us, with our key.
        super().__init__(max_peers=2 * MAX_KNOWN_PEERS)
        self.peer_data_map = _PeerTable(is_kept)

    def add_protocols(self, peer_id: ID, protocols: Sequence[str]) -> None:
        super().add_protocols(peer_id, _short(protocols))
        known = self.peer_data_map[peer_id]
        known.set_protocols(list(dict.fromkeys(known.get_protocols()))[:MAX_PEER_PROTOCOLS])

    def set_protocols(self, peer_id: ID, protocols: Sequence[str]) -> None:
        super().set_protocols(peer_id, _short(protocols))

    def add_addr(self, peer_id: ID, addr: Multiaddr, ttl: int = 0) -> None:
        self.add_addrs(peer_id, [addr], ttl)

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        known = self.peer_data_map.get(peer_id)
        room = MAX_PEER_ADDRESSES - (len(known.get_addrs()) if known else 0)
        super().add_addrs(peer_id, list(addrs)[: max(room, 0)], ttl)

    def consume_peer_record(self, envelope: Envelope, ttl: int) -> bool:
        is_taken = super().consume_peer_record(envelope, ttl)
        for known in self.peer_record_map.keys() - self.peer_data_map.keys():
            del self.peer_record_map[known]
        return is_taken


def _short(protocols: Iterable[str]) -> list[str]:
    return [each for each in protocols if len(each) <= _MAX_PROTOCOL_LENGTH][:MAX_PEER_PROTOCOLS]


class _FairTable(dict[bytes, EntryT]):
    """Knows which address group answers for each key, so that the one with most makes room."""

    def __init__(self) -> None:
        super().__init__()
        self._groups: dict[bytes, str] = {}
        self._keys: dict[str, dict[bytes, None]] = {}
        """Of each group; those that were not renewed for longest first."""

    def __delitem__(self, key: bytes, /) -> None:
        super().__delitem__(key)
        self.keep(key)

    def keep(self, key: bytes) -> None:
        """Nobody answers for it: it never makes room."""
        group = self._groups.pop(key, None)
        if group is not None:
            del self._keys[group][key]
            if not self._keys[group]:
                del self._keys[group]

    def renew(self, key: bytes, group: str) -> None:
        """Something was put under the key; the group answers for it if none did."""
        self._give(key, self._groups.get(key, group))

    def make_room(self, groups_of: Callable[[bytes], Collection[str]] = lambda _: ()) -> None:
        """Forget the key that was not renewed for longest, of the group with most of them.

        Args:
            groups_of: who else put something under a key. A group that has fewer takes it over, so
                that nobody has another's key forgotten by putting his own things there.
        """
        while self._keys:
            largest = max(self._keys, key=self._num_keys)
            key = next(iter(self._keys[largest]))
            heir = min(groups_of(key), key=self._num_keys, default=largest)
            if self._num_keys(heir) + 1 >= self._num_keys(largest):
                del self[key]
                return
            self._give(key, heir)

    def _give(self, key: bytes, group: str) -> None:
        self.keep(key)
        self._groups[key] = group
        self._keys.setdefault(group, {})[key] = None

    def _num_keys(self, group: str) -> int:
        return len(self._keys.get(group, ()))


class _GroupedRecord(ProviderRecord):
    """A provider record, and the address group from which it came."""

    def __init__(self, provider: PeerInfo, group: str) -> None:
        super().__init__(provider)
        self.group = group


class FairProviderStore(ProviderStore):
    """Who provides what, so that no address crowds out the others.

    When a key is full, a record makes room that was not renewed for long, else one of the address
    group with most of them, by lot. When there are too many keys, one goes of the group with most
    of them. Answers take turns between the groups.
    """

    def __init__(self, host: IHost, group_of: GroupOf, chooser: random.Random) -> None:
        """
        Args:
            group_of: the address group that a peer is connected from; "" if it is not.
        """
        super().__init__(host)
        self._group_of = group_of
        self._chooser = chooser
        self._table = _FairTable[dict[str, ProviderRecord]]()
        self.providers = self._table

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        known = self.providers.setdefault(key, {})
        name = str(provider.peer_id)
        if name not in known and len(known) >= MAX_STORED_PROVIDERS:
            del known[self._victim(known)]
        addresses = provider.addrs[:MAX_PROVIDER_ADDRESSES]
        group = self._group_of(provider.peer_id)
        known[name] = _GroupedRecord(PeerInfo(provider.peer_id, addresses), group)
        if str(self.local_peer_id) in known:
            self._table.keep(key)
        else:
            self._table.renew(key, group)
        if len(self.providers) > MAX_PROVIDED_KEYS:
            self._table.make_room(self._groups_of)

    def get_providers(self, key: bytes) -> list[PeerInfo]:
        found = super().get_providers(key)
        groups = {name: _group(record) for name, record in self.providers.get(key, {}).items()}
        return take_turns(found, lambda each: groups[str(each.peer_id)], self._chooser)

    def _victim(self, known: dict[str, ProviderRecord]) -> str:
        own = str(self.local_peer_id)
        others = {name: record for name, record in known.items() if name != own}
        oldest = min(others, key=lambda name: others[name].timestamp)
        if time.time() - others[oldest].timestamp > PROVIDER_FRESHNESS:
            return oldest
        [(largest, _)] = Counter(map(_group, others.values())).most_common(1)
        return self._chooser.choice(
            [name for name, record in others.items() if _group(record) == largest]
        )

    def _groups_of(self, key: bytes) -> set[str]:
        return {_group(record) for record in self.providers[key].values()}


def _group(record: ProviderRecord) -> str:
    return record.group if isinstance(record, _GroupedRecord) else ""


class FairValueStore(ValueStore):
    """Host records of others, so that no address crowds out the others.

    When it is full, the oldest record goes of the address group with most of them. A record's group
    is where the host it speaks of is connected from: a host puts its own, and what others put for
    hosts that are not here counts as one group.
    """

    def __init__(
        self, host: IHost, own_id: ID, group_of_key: Callable[[bytes], str | None]
    ) -> None:
        """
        Args:
            group_of_key: the address group of the host whose record has this key; "" if it is not
                connected; None: it is this node's own.
        """
        super().__init__(host, own_id)
        self._group_of_key = group_of_key
        self._table = _FairTable[tuple[Record, float]]()
        self.store = self._table

    def put(self, key: bytes, value: bytes, validity: float = 0.0) -> None:
        """A record of this node's own, which is kept."""
        self._make_room(key)
        super().put(key, value, validity)
        self._table.keep(key)

    def put_record(self, key: bytes, record: Record) -> None:
        self._make_room(key)
        super().put_record(key, record)
        group = self._group_of_key(key)
        if group is None:
            self._table.keep(key)
        else:
            self._table.renew(key, group)

    def _make_room(self, key: bytes) -> None:
        """Before the library does, which asks for it even where a record is replaced."""
        if key in self.store:
            del self.store[key]
        elif len(self.store) >= MAX_STORED_RECORDS:
            self._table.make_room()


def take_turns(
    items: Iterable[ItemT], group_of: Callable[[ItemT], str], chooser: random.Random
) -> list[ItemT]:
    """The items in an order in which every group has its n-th turn before any has n + 1; who comes
    first, in a group and among the groups, is drawn by lot."""
    groups: dict[str, list[ItemT]] = {}
    for item in items:
        groups.setdefault(group_of(item), []).append(item)
    lists = list(groups.values())
    for members in lists:
        chooser.shuffle(members)
    chooser.shuffle(lists)
    return interleave(lists)


def interleave(lists: Iterable[Sequence[ItemT]]) -> list[ItemT]:
    """The first item of each list, then the second of each, and so on."""
    return [item for turn in zip_longest(*lists) for item in turn if item is not None]
