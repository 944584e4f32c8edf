"""Caches, which may lose anything: results by path, and the trees of large blobs."""
