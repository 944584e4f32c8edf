"""BLAKE3 trees, with which any part of a blob can be verified alone."""
