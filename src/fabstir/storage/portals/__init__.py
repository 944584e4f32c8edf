"""S5 portals and bridges over HTTP."""

from fabstir.storage.portals.account import AccountFile, PortalAccount
from fabstir.storage.portals.answers import AccountStats, LocationAnswer, PortalNode
from fabstir.storage.portals.http import (
    OnRequest,
    Patience,
    PortalHttp,
    PortalRequest,
    open_client,
    parse_origin,
)
from fabstir.storage.portals.portal import Portal
from fabstir.storage.portals.presets import PRESETS, expand
from fabstir.storage.portals.session import Session, load_session, sign_in
from fabstir.storage.portals.source import OnProgress, Source, bytes_source, spooled_source

__all__ = [
    "PRESETS",
    "AccountFile",
    "AccountStats",
    "LocationAnswer",
    "OnProgress",
    "OnRequest",
    "Patience",
    "Portal",
    "PortalAccount",
    "PortalHttp",
    "PortalNode",
    "PortalRequest",
    "Session",
    "Source",
    "bytes_source",
    "expand",
    "load_session",
    "open_client",
    "parse_origin",
    "sign_in",
    "spooled_source",
]
