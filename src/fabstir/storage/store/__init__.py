"""The local content-addressed store of S5."""

from fabstir.db.s5.pins import Pin, Usage
from fabstir.db.s5.scrubs import ScrubRound
from fabstir.storage.store.adopt import adopt_folder
from fabstir.storage.store.archive import Exported, Imported
from fabstir.storage.store.local import LocalBlobs
from fabstir.storage.store.registry import LocalRegistry
from fabstir.storage.store.scrub import Fault, Finding, Scrubbed
from fabstir.storage.store.store import IMPORTED, BlobStore, Collected, open_store

__all__ = [
    "IMPORTED",
    "BlobStore",
    "Collected",
    "Exported",
    "Fault",
    "Finding",
    "Imported",
    "LocalBlobs",
    "LocalRegistry",
    "Pin",
    "ScrubRound",
    "Scrubbed",
    "Usage",
    "adopt_folder",
    "open_store",
]
