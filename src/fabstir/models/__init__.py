"""Model files: which there are, where they come from, and whether they are what they claim."""

from fabstir.models.catalogue import (
    DEMO_MODEL,
    FindSources,
    HubSource,
    ModelSpec,
    S5Source,
    Source,
    UrlSource,
    WheelSource,
)
from fabstir.models.download import Patience
from fabstir.models.fetch import fetch_model
from fabstir.models.files import OnProgress, ensure_verified, sha256_of, verify_model

__all__ = [
    "DEMO_MODEL",
    "FindSources",
    "HubSource",
    "ModelSpec",
    "OnProgress",
    "Patience",
    "S5Source",
    "Source",
    "UrlSource",
    "WheelSource",
    "ensure_verified",
    "fetch_model",
    "sha256_of",
    "verify_model",
]
