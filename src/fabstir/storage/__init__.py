"""Bytes by what they are: the local store of S5, and what else keeps blobs."""

from fabstir.storage.store import BlobStore, LocalBlobs, LocalRegistry, adopt_folder, open_store

__all__ = ["BlobStore", "LocalBlobs", "LocalRegistry", "adopt_folder", "open_store"]
