"""What is kept for a while and may be lost: results by path, and the trees of large blobs."""
