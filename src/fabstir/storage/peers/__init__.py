"""Other nodes of S5, over WebSockets: they find blobs and pass registry entries on."""

from fabstir.storage.peers.blobs import Offer
from fabstir.storage.peers.connection import MessageConnection
from fabstir.storage.peers.entries import PeersRegistry
from fabstir.storage.peers.limits import PeerLimits
from fabstir.storage.peers.network import PeerStatus
from fabstir.storage.peers.peers import Peers, open_peers

__all__ = [
    "MessageConnection",
    "Offer",
    "PeerLimits",
    "PeerStatus",
    "Peers",
    "PeersRegistry",
    "open_peers",
]
