"""libp2p: finding hosts. The host, its DHT and every stream live on one trio thread."""

# First, so that nothing imports libp2p before its warnings and logs are tamed.
from fabstir.p2p import _quiet as _quiet  # isort: skip
from fabstir.p2p._selfcheck import InboundStatus
from fabstir.p2p.advertise import Advertiser, AdvertiserStatus, open_advertiser
from fabstir.p2p.config import P2PConfig
from fabstir.p2p.node import P2PNode, P2PStats, Provider, open_p2p

__all__ = [
    "Advertiser",
    "AdvertiserStatus",
    "InboundStatus",
    "P2PConfig",
    "P2PNode",
    "P2PStats",
    "Provider",
    "open_advertiser",
    "open_p2p",
]
