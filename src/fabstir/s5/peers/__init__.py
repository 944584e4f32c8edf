"""Other nodes of S5, over WebSockets: they find blobs and pass registry entries on."""

from fabstir.s5.peers.blobs import Offer
from fabstir.s5.peers.connection import MessageConnection
from fabstir.s5.peers.entries import PeersRegistry
from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.network import PeerStatus
from fabstir.s5.peers.peers import Peers, open_peers

__all__ = [
    "MessageConnection",
    "Offer",
    "PeerLimits",
    "PeerStatus",
    "Peers",
    "PeersRegistry",
    "open_peers",
]
