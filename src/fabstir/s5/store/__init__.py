"""The local content-addressed store of S5."""

from fabstir.s5.store.adopt import adopt_folder
from fabstir.s5.store.archive import Exported, Imported
from fabstir.s5.store.local import LocalBlobs
from fabstir.s5.store.registry import LocalRegistry
from fabstir.s5.store.scrub import Fault, Finding, Scrubbed
from fabstir.s5.store.store import IMPORTED, BlobStore, Collected, open_store
from fabstir.s5.tables.pins import Pin, Usage
from fabstir.s5.tables.scrubs import ScrubRound

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
