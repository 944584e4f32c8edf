"""Many changes that become visible together."""

from __future__ import annotations

from fabstir.primitives.errors import PathRefused
from fabstir.s5.fs.changes import RemoveFile
from fabstir.s5.fs.commits import SlotsByPath
from fabstir.s5.fs.contents import Data
from fabstir.s5.fs.paths import format_path, parse_path
from fabstir.s5.fs.plans import Plan
from fabstir.s5.fs.running import Write
from fabstir.s5.fs.together import Unstored
from fabstir.s5.fs.uploads import SHORT_BYTES, Uploads, Wish, gather_short
from fabstir.s5.fs.values import FileInfo, file_info

_STORED_AT_ONCE = 64
"""Short contents that are stored together: 4 MiB, and one wait for the disk or the portal."""


class Batch:
    """Collects changes; `FileSystem.batch` makes them visible.

    Attributes:
        plan: what was collected.
        outcome: what there is afterwards, once it is visible.
    """

    def __init__(self, uploads: Uploads, write: Write) -> None:
        self._uploads = uploads
        self._write = write
        self._waiting: list[Unstored] = []
        self.plan = Plan()
        self.outcome: SlotsByPath = {}

    async def put(
        self,
        path: str,
        data: Data,
        media_type: str | None = None,
        *,
        if_match: str | None = None,
        if_none_match: bool = False,
        encrypt: bool = True,
    ) -> None:
        """Store a content, and let it become a file with the rest. As `FileSystem.put`.

        Short contents wait for others to share a wait for the disk with, until the block ends at
        the latest; so StorageFull, QuotaExceeded and PortalError may come then.
        """
        segments = parse_path(path)
        if not segments:
            raise PathRefused("the root is a directory: name a file in it")
        wish = Wish(
            segments=segments,
            media_type=media_type,
            if_match=if_match,
            if_none_match=if_none_match,
            encrypt=encrypt,
        )
        data = await gather_short(data)
        if isinstance(data, bytes) and len(data) <= SHORT_BYTES:
            unstored, change = self._uploads.prepare(wish, data, self._write)
            self._waiting.append(unstored)
            if len(self._waiting) >= _STORED_AT_ONCE:
                await self.flush()
        else:
            change = await self._uploads.store(wish, data, self._write)
        self.plan.add(segments, change)

    async def flush(self) -> None:
        """Store the short contents that wait for company. Raises as `put`."""
        waiting, self._waiting = self._waiting, []
        await self._uploads.store_all(waiting)

    def delete(self, path: str, *, if_match: str | None = None) -> None:
        """Delete a file with the rest. Raises NotFound when the block ends and it is not there."""
        segments = parse_path(path)
        if not segments:
            raise PathRefused("the root cannot be deleted")
        self.plan.add(segments, RemoveFile(path=format_path(segments), if_match=if_match))

    def make_directory(self, path: str) -> None:
        """Make a directory with the rest, if it is missing."""
        self.plan.at(parse_path(path))

    def info(self, path: str) -> FileInfo:
        """A file of this batch as it was written. Raises KeyError: it is not visible yet."""
        segments = parse_path(path)
        file = self.outcome[segments].file
        if file is None:
            raise KeyError(path)
        return file_info(format_path(segments), file)
