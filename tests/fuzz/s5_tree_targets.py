"""Outboards: what a stranger says about a blob that is to be fetched from strangers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.verified.tree import GroupTree, TreeBuilder

_builder = TreeBuilder()
_builder.update(bytes(600_000))
KNOWN: Final = _builder.finish()
"""Of three groups; its outboard is in the corpus."""


def s5_outboard(data: bytes) -> None:
    """The outboard of a known blob, and of one whose size the bytes themselves choose."""
    claimed = BlobId(KNOWN.blob.digest, int.from_bytes(data[:8], "little"))
    for blob in (KNOWN.blob, claimed):
        with suppress(RemoteProtocolError):
            tree = GroupTree.decode(blob, data)
            assert tree.encode() == data
            # Only the length within the last group is not covered: its own bytes show it.
            assert tree.values.shape == KNOWN.values.shape or tree.values.shape == (8, 1)


S5_TREE_TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"s5_outboard": s5_outboard}
