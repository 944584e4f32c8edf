"""BLAKE3 trees: any part of a blob is checked alone."""
