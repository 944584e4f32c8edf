"""A fair sample of those who say that they serve a model.

An answer is one peer's word: it may name a hundred peer ids that it made itself. So each answer has
its turn, and within an answer each address group, until MAX_PROVIDERS are found.
"""

from __future__ import annotations

import random

from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from fabstir.p2p._addresses import parse_addresses
from fabstir.p2p._stores import interleave, take_turns
from fabstir.p2p._workarounds import distinct_providers
from fabstir.p2p.limits import MAX_ANSWER_PROVIDERS, MAX_PROVIDER_ADDRESSES, MAX_PROVIDERS
from fabstir.web.addresses import address_group

_MAX_PEER_ID_BYTES = 64


class ProviderSample:
    """Collects the answers of one lookup."""

    def __init__(self, own_id: ID, chooser: random.Random) -> None:
        """
        Args:
            own_id: is never in the sample.
        """
        self._own_id = own_id
        self._chooser = chooser
        self._answers: dict[ID, list[PeerInfo]] = {}

    def add_answer(self, answerer: ID, answer: Message) -> None:
        """What a peer said; a second answer of the same peer is joined to the first."""
        named = list(answer.providerPeers)
        self._chooser.shuffle(named)
        self.add(
            answerer,
            [
                PeerInfo(ID(peer.id), parse_addresses(peer.addrs))
                for peer in named[:MAX_ANSWER_PROVIDERS]
                if 0 < len(peer.id) <= _MAX_PEER_ID_BYTES
            ],
        )

    def add(self, answerer: ID, providers: list[PeerInfo]) -> None:
        """What a peer knows."""
        known = self._answers.setdefault(answerer, [])
        known += [each for each in providers if each.peer_id != self._own_id]

    def chosen(self) -> list[PeerInfo]:
        """Each provider once, with MAX_PROVIDER_ADDRESSES at most."""
        turns = [take_turns(named, _group, self._chooser) for named in self._answers.values()]
        self._chooser.shuffle(turns)
        merged = distinct_providers(interleave(turns))
        return [
            PeerInfo(peer.peer_id, peer.addrs[:MAX_PROVIDER_ADDRESSES])
            for peer in merged[:MAX_PROVIDERS]
        ]


def _group(provider: PeerInfo) -> str:
    return group_of_addresses(provider.addrs)


def group_of_addresses(addresses: list[Multiaddr]) -> str:
    """The group of the first address with an IP in it; "" if there is none."""
    for address in addresses:
        parts = str(address).split("/")
        if len(parts) > 2 and parts[1] in {"ip4", "ip6"}:
            return address_group(parts[2])
    return ""
