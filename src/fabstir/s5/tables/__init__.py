"""The tables of an S5 store: blobs, pins, registry entries and the queues of what uses them."""

from fabstir.s5.tables.schema import S5, s5_metadata

__all__ = ["S5", "s5_metadata"]
