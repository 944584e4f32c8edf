"""What `fabstir s5` can ask of a node, running or opened for the command alone.

Answers are JSON, so that they can pass the control socket; sizes are in bytes, times in Unix
seconds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from fabstir.crypto import NATIVE
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
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.fs import (
    DirectoryInfo,
    FileInfo,
    ReadOnlyTree,
    Vacuumed,
    open_tree,
    parse_path,
    refuse_names,
    refuse_twins,
)
from fabstir.s5.portals import parse_origin
from fabstir.s5.run.local_folder import open_folder
from fabstir.s5.run.parts import FILES, S5
from fabstir.s5.run.targets import SharedPath, parse_target, require_blob
from fabstir.s5.store import IMPORTED, Fault, Finding, export_archive, import_archive
from fabstir.s5.tables.usage import load_usage_lines
from fabstir.telemetry.background import running
from fabstir.web.control import Asked, Command

SHARED: Final = "shared"
"""Who reads what others shared; it pins nothing."""

PINNED: Final = "pins"
"""Owner of what is pinned and imported by hand."""

MAX_LINES: Final = 10_000
"""Most lines of one answer."""

_MAX_LEFT_OUT = 10
"""Of what a folder has that is no file, so many are named."""

_MAX_UNREADABLE = 10
"""Of directories that cannot be read, so many are named."""

_PINS_AT_ONCE = 256
_PROGRESS_SECONDS = 0.1
"""Between two words of progress: people see no more, and each is a message."""

_WAIT_SECONDS = 0.5
_COUNT_SECONDS = 5.0
"""Between two counts of the copies that all blobs lack, where no upload tells of one."""

"""Between two looks at the queue."""


class S5Commands:
    """The commands of one node.

    Args:
        makes_copies: whether copies elsewhere are made meanwhile: a node serves.
    """

    def __init__(self, s5: S5, *, makes_copies: bool = False) -> None:
        self._s5 = s5
        self._makes_copies = makes_copies

    def table(self) -> dict[str, Command]:
        """By their names."""
        return {
            "find": self.find,
            "ls": self.ls,
            "rm": self.rm,
            "mv": self.mv,
            "share": self.share,
            "mount": self.mount,
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
        """A blob by its identifier, else a file or directory by its path, here or in a share."""
        target = parse_target(asked.arguments.text("target"))
        if not isinstance(target, BlobId):
            tree, path = self.tree(target)
            return _described(await tree.stat(path))
        # The hash says which blob it is; identifiers with a wrong size are about.
        size = await self._s5.store.size(target.multihash)
        blob = target if size is None else BlobId(target.digest, size, target.type)
        return {
            "kind": "blob",
            "path": None,
            "cid": blob.encode(),
            "size": blob.size,
            "blake3": blob.digest.hex() if blob.type == blob.type.BLAKE3 else None,
        }

    async def ls(self, asked: Asked) -> Json:
        """A page of a directory, of the node's own or of a share."""
        text = asked.arguments.text("path")
        target = parse_target(text)
        if isinstance(target, BlobId):
            raise PathRefused(f"{text!a} is a blob, not a directory: `fabstir s5 get` fetches it")
        tree, path = self.tree(target)
        cursor, limit = asked.arguments.optional_text("cursor"), asked.arguments.integer("limit")
        try:
            page = await tree.list(path, cursor=cursor, limit=limit)
        except NotFound:
            if not await tree.exists(path):
                raise
            raise PathRefused(f"{path!a} is a file: `fabstir s5 get` fetches it") from None
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
        if parse_path(path, is_new=False) != parse_path(to) and await self._s5.files.exists(to):
            raise PathRefused(f"{to!a} exists already: delete it, or choose another name")
        above, _, _name = to.strip("/").rpartition("/")
        if above:
            await self._s5.files.make_directory(above)
        await self._s5.files.move(path, to)
        return {"path": path, "to": to}

    async def share(self, asked: Asked) -> Json:
        """A capability that reads a path; asked for, one that writes it, too."""
        path = asked.arguments.text("path")
        is_writable = asked.arguments.flag("is_writable")
        capability = await self._s5.files.share(path, is_writable=is_writable)
        return {"path": path, "capability": capability, "is_writable": is_writable}

    async def mount(self, asked: Asked) -> Json:
        """Let a path lead to a directory that somebody shared."""
        path, capability = asked.arguments.text("path"), asked.arguments.text("capability")
        # First, so that what cannot be read gets no name.
        await self._open(capability).list(limit=1)
        mounted = await self._s5.files.mount(path, capability)
        is_writable = Capability.decode(capability, NATIVE).write_key is not None
        return {"path": mounted.path, "is_writable": is_writable}

    def tree(self, target: SharedPath | str) -> tuple[ReadOnlyTree, str]:
        """Where a path is: in the node's own files, or in what somebody shared."""
        if isinstance(target, SharedPath):
            return self._open(target.capability), target.path
        return self._s5.files, target

    def _open(self, capability: str) -> ReadOnlyTree:
        blobs = self._s5.node.blobs(SHARED)
        return open_tree(capability, blobs, self._s5.open_registry, NATIVE)

    async def put_tree(self, asked: Asked) -> Json:
        """Store a folder of this machine, all of it in one commit."""
        folder = Path(asked.arguments.text("folder"))
        target = asked.arguments.text("path").strip("/")
        pace = _Pace(asked)
        with open_folder(folder) as opened:
            listing = await to_thread.run_sync(opened.list)
            refuse_names(file.path for file in listing.files)
            refuse_twins(file.path for file in listing.files)
            num_bytes = 0
            async with self._s5.files.batch() as batch:
                for done, file in enumerate(listing.files):
                    await pace.report(done, len(listing.files))
                    path = f"{target}/{file.path}" if target else file.path
                    content = _Counted(opened.read(file))
                    try:
                        await batch.put(path, content.pieces())
                    except PathRefused as error:
                        raise PathRefused(f"{file.path!a}: {error}; nothing was stored") from error
                    num_bytes += content.num_bytes
        return {
            "path": target,
            "num_files": len(listing.files),
            "num_bytes": num_bytes,
            "num_left_out": len(listing.left_out),
            "left_out": list(listing.left_out[:_MAX_LEFT_OUT]),
        }

    # -- blobs ------------------------------------------------------------------------------------

    async def pin(self, asked: Asked) -> Json:
        """Keep a blob, fetched if it is not here."""
        blob = require_blob(asked.arguments.text("cid"))
        await self._s5.node.bring(blob)
        await self._s5.store.pin(
            PINNED, [blob.multihash], reason=asked.arguments.text("reason", limit=256)
        )
        return {"cid": blob.encode(), "size": blob.size}

    async def unpin(self, asked: Asked) -> Json:
        """Keep it no longer by hand."""
        blob = require_blob(asked.arguments.text("cid"))
        num_unpinned = await self._s5.store.unpin(PINNED, [blob.multihash])
        return {"cid": blob.encode(), "was_pinned": num_unpinned > 0}

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
        target = parse_target(asked.arguments.text("target"))
        if isinstance(target, BlobId):
            blob = target
        else:
            tree, path = self.tree(target)
            info = await tree.stat(path)
            if isinstance(info, DirectoryInfo):
                raise PathRefused(f"{path!a} is a directory: ask for a file in it")
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
        problem: str | None = None
        vacuumed = Vacuumed(num_pins=0, num_released=0, released_bytes=0)
        try:
            vacuumed = await self._s5.files.vacuum(self._s5.store.pins(FILES), min_age=grace)
        except (StorageError, RemoteProtocolError) as error:
            # What nobody pins goes all the same.
            problem = str(error)
        collected = await self._s5.store.collect(grace_seconds=grace)
        return {
            **asdict(collected),
            "num_released": vacuumed.num_released,
            "num_kept": vacuumed.num_kept,
            "unreadable": _shown_unreadable(vacuumed.unreadable),
            "problem": problem,
        }

    async def export(self, asked: Asked) -> Json:
        """Write all blobs into a file of this machine."""
        file, whole = Path(asked.arguments.text("file")), await self._s5.store.usage()
        async with _reporting(asked, whole.num_bytes) as on_progress:
            exported = await export_archive(self._s5.store, file, on_progress=on_progress)
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
            imported = await import_archive(
                self._s5.store,
                file,
                self._s5.open_registry,
                owner=PINNED,
                crypto=NATIVE,
                on_progress=on_progress,
            )
        problem: str | None = None
        try:
            unreadable = await self._give_to_files()
        except (StorageError, RemoteProtocolError) as error:
            # Nothing is lost: what was imported stays pinned, only not for the files.
            problem = str(error)
        else:
            if unreadable:
                problem = "; ".join(f"{path!a}: {why}" for path, why in unreadable.items())
        return {**asdict(imported), "problem": problem}

    async def _give_to_files(self) -> dict[str, str]:
        """Let the files own what their tree names: then `vacuum` keeps it, and releases it.

        Returns:
            Which directories could not be read, and why.
        """
        store, files = self._s5.store, self._s5.files
        named = await files.named()
        pins = iter([pin async for pin in store.pins(PINNED) if pin.blob.digest in named.digests])
        while some := list(islice(pins, _PINS_AT_ONCE)):
            blobs = [pin.blob.multihash for pin in some]
            await store.pin(FILES, blobs, reason=files.reason("restored"))
            imported = [pin.blob.multihash for pin in some if pin.reason == IMPORTED]
            await store.unpin(PINNED, imported)
        return _first(named.unreadable)

    # -- elsewhere --------------------------------------------------------------------------------

    async def queue(self, asked: Asked) -> Json:
        """The uploads that wait; asked for, once there are none. And what waits for no upload yet:
        a portal that does not answer is given none."""
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
        num_missing = await self._s5.replication.num_missing()
        return {"uploads": waiting[:MAX_LINES], "num_missing": num_missing}

    async def _wait_for_uploads(self, asked: Asked) -> None:
        most = 0
        while True:
            changed, seconds = self._s5.uploads.changed, _WAIT_SECONDS
            left = await self._num_uploads()
            if not left and self._makes_copies:
                # Those that wait for a portal that is away are no uploads yet.
                left, seconds = await self._s5.replication.num_missing(), _COUNT_SECONDS
            if not left:
                return
            most = max(most, left)
            await asked.report({"done": most - left, "total": most})
            with anyio.move_on_after(seconds):
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
        await self._s5.accounts.enter(portal, invite=asked.arguments.optional_text("invite"))
        stats = await portal.stats()
        self._s5.replication.wake()
        return {
            "url": url,
            "tier": stats.tier,
            "used_bytes": stats.used_bytes,
            "limit_bytes": stats.limit_bytes,
            "is_configured": portal in self._s5.pool.portals,
        }


class _Counted:
    """A content, and how long it was when it has been read."""

    def __init__(self, pieces: AsyncGenerator[bytes]) -> None:
        self._pieces = pieces
        self.num_bytes = 0

    async def pieces(self) -> AsyncGenerator[bytes]:
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                self.num_bytes += len(piece)
                yield piece


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
    with _reading(file):
        return file.stat().st_size


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


def _first(unreadable: Mapping[str, str]) -> dict[str, str]:
    return dict(islice(unreadable.items(), _MAX_UNREADABLE))


def _shown_unreadable(unreadable: Mapping[str, str]) -> list[Json]:
    return [{"path": path, "problem": problem} for path, problem in _first(unreadable).items()]


def _found(finding: Finding, outcome: str) -> dict[str, Json]:
    return {
        "cid": None if finding.blob is None else finding.blob.encode(),
        "place": finding.place,
        "problem": finding.fault,
        "outcome": outcome,
    }


@contextmanager
def _reading(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
