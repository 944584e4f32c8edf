"""Parts of long blobs: fetched by range, each group of 256 KiB verified before anybody sees it.

What the groups hash to comes from the blob's outboard (`s5.verified.tree`), which is checked
against the blob's own hash. So the outboard may come from one portal, each range from another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final

from anyio import to_thread

from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import (
    NotFound,
    PortalLied,
    PortalRefused,
    RemoteProtocolError,
)
from fabstir.s5.portals.download import content_length, open_route
from fabstir.s5.portals.http import PortalHttp
from fabstir.s5.portals.spool import SPOOL_MEMORY_BYTES
from fabstir.s5.verified.tree import (
    GROUP_BYTES,
    MAX_TREE_BYTES,
    GroupTree,
    group_extent,
    outboard_size,
)

RUN_GROUPS: Final = 16
"""Groups of one request, 4 MiB: what is in memory at a time, and one round trip apart."""

MAX_TREES: Final = 16
"""Outboards that are remembered, or known to be missing; 32 bytes a group, 2.6 MB for 20 GB."""

OUTBOARD_SUFFIX: Final = ".obao"


def has_groups(blob: BlobId) -> bool:
    """Whether reading a blob by groups is worth the round trip for its outboard."""
    return (
        blob.type is HashType.BLAKE3
        and blob.size > SPOOL_MEMORY_BYTES
        and outboard_size(blob.size) <= MAX_TREE_BYTES
    )


class Trees:
    """The outboards of the blobs that were read last."""

    def __init__(self) -> None:
        self._trees: OrderedDict[BlobId, GroupTree | None] = OrderedDict()

    async def get(
        self, blob: BlobId, fetch: Callable[[], Awaitable[GroupTree | None]]
    ) -> GroupTree | None:
        """A blob's tree; None: nobody who was asked has its outboard."""
        if blob not in self._trees:
            self._trees[blob] = await fetch()
            if len(self._trees) > MAX_TREES:
                self._trees.popitem(last=False)
        self._trees.move_to_end(blob)
        return self._trees[blob]


async def fetch_tree(http: PortalHttp, token: str | None, blob: BlobId) -> GroupTree | None:
    """A blob's outboard, verified; None: the portal has none.

    Raises:
        PortalLied: it has the right length and belongs to another blob.
        PortalError: the portal does not answer.
    """
    size = outboard_size(blob.size)
    route = (f"/s5/blob/{blob.encode('z')}{OUTBOARD_SUFFIX}",)
    with http.measured("outboard") as measure:
        try:
            async with open_route(http, token, route, {}, size) as response:
                if response.status_code != 200:
                    await http.refuse(response)
                # The Dart node cuts off what follows a dot, and sends the blob itself.
                if content_length(response.headers) not in {None, size}:
                    return None
                data = await http.read_body(response, size)
        except (NotFound, PortalRefused):
            return None
        measure.bytes_in = len(data)
        try:
            return await to_thread.run_sync(GroupTree.decode, blob, data)
        except RemoteProtocolError as exc:
            raise PortalLied(http.url, str(exc)) from exc


def runs(start: int, end: int) -> Iterator[tuple[int, int]]:
    """First group and number of groups of each request for the bytes from `start` to `end`."""
    group, last = start // GROUP_BYTES, -(-end // GROUP_BYTES) if start < end else 0
    while group < last:
        count = min(RUN_GROUPS, last - group)
        yield group, count
        group += count


async def read_groups(
    start: int,
    end: int,
    fetch: Callable[[int, int], Awaitable[bytes]],
) -> AsyncGenerator[bytes]:
    """The bytes from `start` to before `end`, in pieces of up to 4 MiB.

    Args:
        fetch: verified bytes of a number of groups, from a group on: see `verified_run`.
    """
    for first, count in runs(start, end):
        data = await fetch(first, count)
        offset = first * GROUP_BYTES
        yield data[max(0, start - offset) : end - offset]


async def verified_run(
    url: str,
    tree: GroupTree,
    first: int,
    count: int,
    fetch: Callable[[int, int], Awaitable[bytes]],
) -> bytes:
    """Some groups of a blob, verified.

    Args:
        fetch: the bytes of a range, as a portal sends them.

    Raises:
        PortalLied: one of them is not the blob's.
    """
    start, end = group_extent(tree.blob.size, first, count)
    data = await fetch(start, end)
    wrong = await to_thread.run_sync(tree.wrong_groups, first, data)
    if wrong:
        begin, finish = group_extent(tree.blob.size, wrong[0])
        raise PortalLied(url, f"bytes {begin} to {finish} are not those of the hash asked for")
    return data
