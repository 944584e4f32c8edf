"""`fabstir s5`: the storage node, its files and its blobs."""
