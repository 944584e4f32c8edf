"""The tables of an S5 store: blobs, pins, registry entries and the queues of what uses them."""

from fabstir.db.s5.schema import S5, s5_metadata

__all__ = ["S5", "s5_metadata"]
