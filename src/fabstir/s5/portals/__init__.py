"""S5 portals and bridges over HTTP."""

from fabstir.s5.portals.account import AccountFile, PortalAccount
from fabstir.s5.portals.answers import AccountStats, LocationAnswer, PortalNode
from fabstir.s5.portals.bridge import BridgeClient
from fabstir.s5.portals.health import Backoff, PortalHealth
from fabstir.s5.portals.http import (
    OnRequest,
    PortalHttp,
    PortalPatience,
    PortalRequest,
    open_client,
    parse_origin,
)
from fabstir.s5.portals.pool import PortalPool, PortalUsage
from fabstir.s5.portals.portal import Portal
from fabstir.s5.portals.presets import PRESETS, expand
from fabstir.s5.portals.probe import Check, PortalReport, probe
from fabstir.s5.portals.queue import PendingUpload, UploadQueue, open_upload_queue
from fabstir.s5.portals.session import PortalSession, load_session, sign_in
from fabstir.s5.portals.source import OnBytesFetched, UploadSource, bytes_source, spooled_source

__all__ = [
    "PRESETS",
    "AccountFile",
    "AccountStats",
    "Backoff",
    "BridgeClient",
    "Check",
    "LocationAnswer",
    "OnBytesFetched",
    "OnRequest",
    "PendingUpload",
    "Portal",
    "PortalAccount",
    "PortalHealth",
    "PortalHttp",
    "PortalNode",
    "PortalPatience",
    "PortalPool",
    "PortalReport",
    "PortalRequest",
    "PortalSession",
    "PortalUsage",
    "UploadQueue",
    "UploadSource",
    "bytes_source",
    "expand",
    "load_session",
    "open_client",
    "open_upload_queue",
    "parse_origin",
    "probe",
    "sign_in",
    "spooled_source",
]
