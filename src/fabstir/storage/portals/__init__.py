"""S5 portals and bridges over HTTP."""

from fabstir.storage.portals.account import AccountFile, PortalAccount
from fabstir.storage.portals.answers import AccountStats, LocationAnswer, PortalNode
from fabstir.storage.portals.bridge import Bridge
from fabstir.storage.portals.health import Backoff, HealthReport
from fabstir.storage.portals.http import (
    OnRequest,
    Patience,
    PortalHttp,
    PortalRequest,
    open_client,
    parse_origin,
)
from fabstir.storage.portals.pool import PortalPool, PortalUsage
from fabstir.storage.portals.portal import Portal
from fabstir.storage.portals.presets import PRESETS, expand
from fabstir.storage.portals.probe import Check, PortalReport, probe
from fabstir.storage.portals.queue import PendingUpload, UploadQueue, open_upload_queue
from fabstir.storage.portals.session import Session, load_session, sign_in
from fabstir.storage.portals.source import OnProgress, Source, bytes_source, spooled_source

__all__ = [
    "PRESETS",
    "AccountFile",
    "AccountStats",
    "Backoff",
    "Bridge",
    "Check",
    "HealthReport",
    "LocationAnswer",
    "OnProgress",
    "OnRequest",
    "Patience",
    "PendingUpload",
    "Portal",
    "PortalAccount",
    "PortalHttp",
    "PortalNode",
    "PortalPool",
    "PortalReport",
    "PortalRequest",
    "PortalUsage",
    "Session",
    "Source",
    "UploadQueue",
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
