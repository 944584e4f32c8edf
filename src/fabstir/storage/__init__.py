"""Bytes by what they are."""

from fabstir.storage.blobs import BlobStore

__all__ = ["BlobStore"]
