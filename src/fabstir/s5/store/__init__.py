"""The local content-addressed store of S5."""

from fabstir.s5.store.archive import IMPORTED, Exported, Imported, export_archive, import_archive
from fabstir.s5.store.local import LocalBlobs
from fabstir.s5.store.registry import LocalRegistry
from fabstir.s5.store.scrub import Fault, Finding, Scrubbed
from fabstir.s5.store.store import BlobStore, Collected, open_store
from fabstir.s5.tables.pins import Pin, StoreUsage
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
    "StoreUsage",
    "export_archive",
    "import_archive",
    "open_store",
]
