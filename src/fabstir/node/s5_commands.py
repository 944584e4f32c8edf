"""What `fabstir s5` can ask of a node, running or opened for the command alone.

Answers are JSON, so that they can pass the control socket; sizes are in bytes, times in Unix
seconds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from fabstir.db.s5.usage import load_usage_lines
from fabstir.node.control import Asked, Command
from fabstir.node.s5_parts import FILES, S5
from fabstir.primitives.cid import BlobId
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import (
    CorruptBlob,
    NotFound,
    PathRefused,
    PortalError,
    RemoteProtocolError,
    StorageError,
)
from fabstir.storage.fs import DirectoryInfo, FileInfo
from fabstir.storage.portals import parse_origin
from fabstir.storage.store import IMPORTED, Fault, Finding
from fabstir.telemetry.background import running

_logger = logging.getLogger(__name__)

PINNED: Final = "pins"
"""Owner of what is pinned and imported by hand."""

MAX_LINES: Final = 10_000
"""Most lines of one answer."""

_PINS_AT_ONCE = 256
_READ_BYTES = 1 << 20
_PROGRESS_SECONDS = 0.1
"""Between two words of progress: people see no more, and each is a message."""

_WAIT_SECONDS = 0.5
"""Between two looks at the queue."""


class S5Commands:
    """The commands of one node."""

    def __init__(self, s5: S5) -> None:
        self._s5 = s5

    def table(self) -> dict[str, Command]:
        """By their names."""
        return {
            "find": self.find,
            "ls": self.ls,
            "rm": self.rm,
            "mv": self.mv,
            "share": self.share,
            "put_tree": self.put_tree,
            "pin": self.pin,
            "unpin": self.unpin,
            "du": self.du,
            "where": self.where,
            "scrub": self.scrub,
            "gc": self.gc,
            "export": self.export,
            "import": self.import_,
            "queue": self.queue,
            "login": self.login,
        }

    # -- files ------------------------------------------------------------------------------------

    async def find(self, asked: Asked) -> Json:
        """A blob by its identifier, else a file or directory by its path."""
        target = asked.arguments.text("target")
        blob = _blob_of(target)
        if blob is not None:
            return {
                "kind": "blob",
                "path": None,
                "cid": blob.encode(),
                "size": blob.size,
                "blake3": blob.digest.hex() if blob.type == blob.type.BLAKE3 else None,
            }
        return _described(await self._s5.files.stat(target))

    async def ls(self, asked: Asked) -> Json:
        """A page of a directory."""
        page = await self._s5.files.list(
            asked.arguments.text("path"),
            cursor=asked.arguments.optional_text("cursor"),
            limit=asked.arguments.integer("limit"),
        )
        entries: list[Json] = [_described(info) for info in page.entries]
        return {"entries": entries, "cursor": page.cursor, "num_refused": page.num_refused}

    async def rm(self, asked: Asked) -> Json:
        """Delete a file or directory."""
        path, recursive = asked.arguments.text("path"), asked.arguments.flag("recursive")
        await self._s5.files.delete(path, recursive=recursive)
        return {"path": path}

    async def mv(self, asked: Asked) -> Json:
        """Move or rename."""
        path, to = asked.arguments.text("path"), asked.arguments.text("to")
        above, _, _name = to.strip("/").rpartition("/")
        if above:
            await self._s5.files.make_directory(above)
        await self._s5.files.move(path, to)
        return {"path": path, "to": to}

    async def share(self, asked: Asked) -> Json:
        """A capability that reads a path."""
        path = asked.arguments.text("path")
        return {"path": path, "capability": await self._s5.files.share(path)}

    async def put_tree(self, asked: Asked) -> Json:
        """Store a folder of this machine, all of it in one commit."""
        folder = Path(asked.arguments.text("folder"))
        target = asked.arguments.text("path").strip("/")
        found = await to_thread.run_sync(_files_below, folder)
        pace = _Pace(asked)
        num_bytes = 0
        async with self._s5.files.batch() as batch:
            for done, relative in enumerate(found):
                await pace.report(done, len(found))
                path = f"{target}/{relative}" if target else relative
                await batch.put(path, _content(folder / relative))
                num_bytes += (folder / relative).stat().st_size
        return {"path": target, "num_files": len(found), "num_bytes": num_bytes}

    # -- blobs ------------------------------------------------------------------------------------

    async def pin(self, asked: Asked) -> Json:
        """Keep a blob, fetched if it is not here."""
        blob = _require_blob(asked.arguments.text("cid"))
        await self._s5.node.bring(blob)
        await self._s5.store.pin(
            PINNED, [blob.multihash], reason=asked.arguments.text("reason", limit=256)
        )
        return {"cid": blob.encode(), "size": blob.size}

    async def unpin(self, asked: Asked) -> Json:
        """Keep it no longer by hand."""
        blob = _require_blob(asked.arguments.text("cid"))
        await self._s5.store.unpin(PINNED, [blob.multihash])
        return {"cid": blob.encode()}

    async def du(self, asked: Asked) -> Json:
        """What is kept by whom and why; asked for, also where."""
        lines = await self._s5.store.db.read(lambda c: load_usage_lines(c, MAX_LINES))
        whole = await self._s5.store.usage()
        answer: dict[str, Json] = {
            "owners": [asdict(line) for line in lines],
            "num_blobs": whole.num_blobs,
            "num_bytes": whole.num_bytes,
            "max_bytes": whole.max_bytes,
        }
        if asked.arguments.flag("where"):
            places = await self._s5.replication.places()
            answer["places"] = [asdict(place) for place in places]
            answer["num_missing"] = await self._s5.replication.num_missing()
        return answer

    async def where(self, asked: Asked) -> Json:
        """Where the copies of a file's blob, or of a blob, are."""
        target = asked.arguments.text("target")
        blob = _blob_of(target)
        if blob is None:
            info = await self._s5.files.stat(target)
            if isinstance(info, DirectoryInfo):
                raise PathRefused(f"{target!a} is a directory: ask for a file in it")
            blob = BlobId.decode(info.cid)
        copies: list[Json] = [
            {"place": copy.place, "state": copy.state, "checked_at": copy.checked_at}
            for copy in await self._s5.replication.where(blob)
        ]
        if await self._s5.store.size(blob.multihash) is not None:
            copies.insert(0, {"place": "this node", "state": "stored", "checked_at": None})
        return {"cid": blob.encode(), "copies": copies}

    async def scrub(self, asked: Asked) -> Json:
        """Read everything, and replace what has rotted from elsewhere if that is wanted."""
        pace, bad = _Pace(asked), list[Json]()
        num_blobs = num_bad = num_mended = 0
        async for report in self._s5.store.scrub():
            await pace.report(report.num_blobs, report.total_blobs)
            num_blobs = report.num_blobs
            for finding in report.findings:
                outcome = await self._mended(finding, wanted=asked.arguments.flag("mend"))
                num_bad += finding.blob is not None and finding.fault is not Fault.RESTORED
                num_mended += outcome == "replaced"
                if len(bad) < MAX_LINES:
                    bad.append(_found(finding, outcome))
        return {"num_blobs": num_blobs, "num_bad": num_bad, "num_mended": num_mended, "bad": bad}

    async def _mended(self, finding: Finding, *, wanted: bool) -> str:
        if not wanted or finding.blob is None or finding.fault is Fault.RESTORED:
            return ""
        try:
            await self._s5.node.mend(finding.blob)
        except (NotFound, CorruptBlob):
            return "nobody has it"
        except (PortalError, StorageError) as error:
            return str(error)
        return "replaced"

    async def gc(self, asked: Asked) -> Json:
        """Release what the file system no longer names, then remove what nobody pins."""
        grace = asked.arguments.integer("grace_millis") / 1000
        vacuumed = await self._s5.files.vacuum(self._s5.store.pins(FILES), min_age=grace)
        collected = await self._s5.store.collect(grace_seconds=grace)
        return {**asdict(collected), "num_released": vacuumed.num_released}

    async def export(self, asked: Asked) -> Json:
        """Write all blobs into a file of this machine."""
        file, whole = Path(asked.arguments.text("file")), await self._s5.store.usage()
        async with _reporting(asked, whole.num_bytes) as on_progress:
            exported = await self._s5.store.export(file, on_progress=on_progress)
        damaged: list[Json] = [blob.encode() for blob in exported.damaged]
        return {
            "num_blobs": exported.num_blobs,
            "num_bytes": exported.num_bytes,
            "num_entries": exported.num_entries,
            "damaged": damaged,
        }

    async def import_(self, asked: Asked) -> Json:
        """Take in what such a file has."""
        file = Path(asked.arguments.text("file"))
        async with _reporting(asked, await to_thread.run_sync(_size, file)) as on_progress:
            imported = await self._s5.store.import_(
                file, self._s5.registry, owner=PINNED, on_progress=on_progress
            )
        try:
            await self._give_to_files()
        except (StorageError, RemoteProtocolError) as error:
            # Nothing is lost: what was imported stays pinned, only not for the files.
            return {**asdict(imported), "problem": str(error)}
        return {**asdict(imported), "problem": None}

    async def _give_to_files(self) -> None:
        """Let the files own what their tree names: then `vacuum` keeps it, and releases it."""
        store, files = self._s5.store, self._s5.files
        named = await files.named()
        pins = iter([pin async for pin in store.pins(PINNED) if pin.blob.digest in named])
        while some := list(islice(pins, _PINS_AT_ONCE)):
            blobs = [pin.blob.multihash for pin in some]
            await store.pin(FILES, blobs, reason=files.reason("restored"))
            imported = [pin.blob.multihash for pin in some if pin.reason == IMPORTED]
            await store.unpin(PINNED, imported)

    # -- elsewhere --------------------------------------------------------------------------------

    async def queue(self, asked: Asked) -> Json:
        """The uploads that wait; asked for, once there are none."""
        if asked.arguments.flag("wait"):
            await self._wait_for_uploads(asked)
        waiting: list[Json] = [
            {
                "place": item.portal,
                "cid": item.blob.encode(),
                "size": item.blob.size,
                "num_bytes": item.num_bytes,
                "num_failures": item.attempts,
                "next_at": item.next_attempt_at,
                "problem": item.last_error,
            }
            for item in await self._s5.uploads.pending()
        ]
        return {"uploads": waiting[:MAX_LINES]}

    async def _wait_for_uploads(self, asked: Asked) -> None:
        most = 0
        while left := await self._num_uploads():
            most = max(most, left)
            changed = self._s5.uploads.changed
            await asked.report({"done": most - left, "total": most})
            with anyio.move_on_after(_WAIT_SECONDS):
                await changed.wait()

    async def _num_uploads(self) -> int:
        """Those that can still be done: a portal that is named no more gets nothing."""
        backlog = await self._s5.uploads.backlog()
        known = {portal.url for portal in self._s5.pool.portals}
        return sum(num_blobs for url, (num_blobs, _) in backlog.items() if url in known)

    async def login(self, asked: Asked) -> Json:
        """Register or log in at a portal; the token is kept."""
        (url, _authority) = parse_origin(asked.arguments.text("url"))
        known = (portal for portal in self._s5.pool.portals if portal.url == url)
        portal = next(known, None) or await self._s5.accounts.portal(url, self._s5.folder / "tmp")
        accounts, hidden = self._s5.accounts, self._s5.hidden_accounts
        with _not_vital("the accounts of this identity's other machines are not read"):
            await accounts.take_from(hidden, url)
        await accounts.enter(portal, invite=asked.arguments.optional_text("invite"))
        with _not_vital("this identity's other machines are not told of the account"):
            await accounts.tell(hidden, url)
        stats = await portal.stats()
        self._s5.replication.wake()
        return {
            "url": url,
            "tier": stats.tier,
            "used_bytes": stats.used_bytes,
            "limit_bytes": stats.limit_bytes,
            "is_configured": portal in self._s5.pool.portals,
        }


@contextmanager
def _not_vital(message: str) -> Generator[None]:
    """Go on without what fails."""
    try:
        yield
    except (StorageError, RemoteProtocolError) as error:
        _logger.warning(message, extra={"reason": str(error)})


class _Pace:
    """Says how far a command is, but not too often."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._next = 0.0

    async def report(self, done: int, total: int) -> None:
        now = anyio.current_time()
        if now >= self._next:
            self._next = now + _PROGRESS_SECONDS
            await self._asked.report({"done": done, "total": total})


@asynccontextmanager
async def _reporting(asked: Asked, total: int) -> AsyncGenerator[Callable[[int], None]]:
    """Say from time to time how far it is, for the length of the block; yields who is to know."""
    done = 0

    def note(num_bytes: int) -> None:
        nonlocal done
        done = min(num_bytes, total)

    async def say() -> None:
        while True:
            await asked.report({"done": done, "total": total})
            await anyio.sleep(_PROGRESS_SECONDS)

    async with running(say):
        yield note


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}") from error


def _blob_of(target: str) -> BlobId | None:
    """The blob that a text names; None: it is a path.

    A path that is also an identifier is taken for the identifier; with a slash before it, it is a
    path.
    """
    if not target.startswith(("blobb", "z", "u", "f")):
        return None
    try:
        return BlobId.decode(target)
    except ValueError:
        return None


def _require_blob(text: str) -> BlobId:
    try:
        return BlobId.decode(text)
    except ValueError as error:
        raise RemoteProtocolError(f"{text[:80]!a} is no blob's identifier: {error}") from error


def _described(info: FileInfo | DirectoryInfo) -> dict[str, Json]:
    if isinstance(info, DirectoryInfo):
        return {
            "kind": "directory",
            "path": info.path,
            "cid": info.cid,
            "modified_at": info.created_at,
            "is_encrypted": info.is_encrypted,
        }
    return {
        "kind": "file",
        "path": info.path,
        "cid": info.cid,
        "size": info.size,
        "blake3": None if info.plaintext_hash is None else info.plaintext_hash.hex(),
        "media_type": info.media_type,
        "modified_at": info.modified_at,
        "is_encrypted": info.is_encrypted,
        "num_versions": info.num_versions,
    }


def _found(finding: Finding, outcome: str) -> dict[str, Json]:
    return {
        "cid": None if finding.blob is None else finding.blob.encode(),
        "place": finding.place,
        "problem": finding.fault,
        "outcome": outcome,
    }


def _files_below(folder: Path) -> Sequence[str]:
    """All files below a folder, by paths from it; links to folders are not followed."""
    if not folder.is_dir():
        raise NotFound(f"no such folder: {folder}")
    found: list[str] = []
    for above, _folders, names in os.walk(folder):
        paths = [Path(above, name) for name in names]
        found += [str(path.relative_to(folder)) for path in paths if path.is_file()]
    return sorted(found)


async def _content(path: Path) -> AsyncIterator[bytes]:
    try:
        async with await anyio.open_file(path, "rb") as file:
            while piece := await file.read(_READ_BYTES):
                yield piece
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
