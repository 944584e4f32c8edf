"""Directories as blobs and registry entries: fetched, verified, opened, remembered; and published.

A mutable directory is the blob that its key's newest registry entry names. An entry without data
says that the directory was deleted. What was read of an older revision is never believed again:
this object remembers the newest entry of each key that it met.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Final

from fabstir.primitives.cid import Multihash
from fabstir.primitives.errors import (
    AccessDenied,
    CorruptBlob,
    NotFound,
    PortalError,
    PortalLied,
    RemoteProtocolError,
    StorageError,
    WriteConflict,
)
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats import hamt
from fabstir.s5.formats.dialects import (
    Encoded,
    decode_directory,
    encode_canonical_directory,
    encode_directory,
)
from fabstir.s5.formats.directory import (
    Directory,
    DirectoryDialect,
    DirectoryEntry,
    DirRef,
    FileRef,
    LinkKind,
    Sharding,
)
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.encryption import (
    MUTABLE_OVERHEAD_BYTES,
    NONCE_BYTES,
    is_sealed_mutable,
    open_mutable,
    padded_size,
    seal_mutable,
)
from fabstir.s5.formats.hamt_nodes import DecodedNode, decode_node
from fabstir.s5.formats.limits import MAX_HAMT_NODE_BYTES, MAX_MUTABLE_BYTES
from fabstir.s5.formats.registry import (
    SignedEntry,
    blob_pointer,
    read_blob_pointer,
    sign_entry,
)
from fabstir.s5.fs.authorship import MARK, Author, Authorship, content_hash
from fabstir.s5.fs.cache import Cache
from fabstir.s5.fs.changes import NameSlot
from fabstir.s5.fs.keys import with_derived_key
from fabstir.s5.fs.paths import other_spellings
from fabstir.s5.fs.reading import LOOKUP_BYTES, Allowance, Decoding
from fabstir.s5.fs.together import Unstored, put_all
from fabstir.s5.ports import Blobs, EntryRegistry

_LOG = logging.getLogger(__name__)

MAX_ENTRIES_REMEMBERED: Final = 100_000
"""Keys whose newest revision is remembered: some 30 MB at most."""

MAX_REFUSED: Final = 1000
"""Nodes that were no nodes, and are not decoded again."""

_DECODED_WEIGHT: Final = 8
"""Bytes of Python objects for one byte of an encoded directory, measured with 1,000 files."""

_ENCODED_WEIGHT: Final = 3
"""As above, of one that is kept in pieces so that the next version is encoded quickly."""

_MAX_READS = 5
"""How often a directory is read again whose blob was replaced between entry and blob."""

LABEL_BYTES: Final = 8
"""Of a directory's link, beside the pins of what is in it."""

FILE_KEY, DIRECTORY_KEY = "f:", "d:"
"""What the keys of a HAMT begin with."""

UNREADABLE: Final = (AccessDenied, CorruptBlob, NotFound, PortalError, RemoteProtocolError)
"""What reading a directory raises where it is not there to be read, or is none. What else may
fail, this machine's disk first of all, says nothing about the directory."""

EMPTY: Final = Directory(files={}, dirs={})


class State(Enum):
    """Whether there is a directory behind a link."""

    MISSING = "missing"
    DELETED = "deleted"
    PRESENT = "present"


class LostRace(WriteConflict):
    """Another writer's revision is there.

    Attributes:
        is_certain: whether ours was never there. Behind a portal whose answer was lost it may have
            been, and been gone on from.
    """

    def __init__(self, what: str, *, is_certain: bool) -> None:
        super().__init__(what, "its next revision was published meanwhile")
        self.is_certain = is_certain


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A directory as it is now.

    Attributes:
        revision: of its registry entry; 0 where there is none, or the link is fixed.
        blob: where its bytes are; None unless it is present.
        content: what a mark of authorship in it is made of; b"": it has none.
    """

    capability: Capability
    path: str
    state: State
    revision: int
    directory: Directory
    blob: Multihash | None = None
    content: bytes = b""

    def live(self) -> Loaded:
        """Itself. Raises NotFound: it was deleted, or never written."""
        if self.state is not State.PRESENT:
            raise NotFound(f"the directory {self.path!a} was deleted, or never written")
        return self


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A directory, and its `content_hash`."""

    directory: Directory
    content: bytes


class Directories:
    """Reads and publishes directories.

    Args:
        label: begins the reasons of this tree's pins.
        cache_bytes: for decoded directories and opened nodes.
        author: of the tree; None: it is only read.
    """

    def __init__(
        self,
        blobs: Blobs,
        registry: EntryRegistry,
        crypto: Crypto,
        *,
        random: Callable[[int], bytes],
        dialect: DirectoryDialect,
        label: str,
        cache_bytes: int,
        author: Author | None = None,
    ) -> None:
        self.blobs = blobs
        self.crypto = crypto
        self.random = random
        self.dialect = dialect
        self.label = label
        self._author = author
        self._registry = registry
        self._seen: Cache[bytes, SignedEntry] = Cache(MAX_ENTRIES_REMEMBERED)
        self._decoded: Cache[tuple[bytes, bytes], _Decoded] = Cache(cache_bytes)
        self._encoded: Cache[bytes, Encoded] = Cache(cache_bytes)
        self._refused: Cache[tuple[bytes, bytes], str] = Cache(MAX_REFUSED)
        self._decoding = Decoding()
        self._nodes: Cache[tuple[bytes, bytes], bytes] = Cache(cache_bytes)

    # -- reading ----------------------------------------------------------------------------------

    async def load_or_begin(self, capability: Capability, path: str) -> Loaded:
        """As `load`; one that nothing names, and whose blob is gone, counts as deleted.

        Killed writers leave such directories: published, not yet named, their blobs collected.
        """
        try:
            return await self.load(capability, path)
        except CorruptBlob:
            entry = await self._newest(capability.cid.link, path)
            return _without_content(capability, path, entry, State.DELETED)

    async def load(self, capability: Capability, path: str) -> Loaded:
        """The newest version of a directory.

        Raises:
            AccessDenied: it is encrypted, and the key is missing or another one's.
            CorruptBlob: its bytes are gone or damaged.
            PortalLied: the registry answers an older revision than before.
            RemoteProtocolError: the bytes are no directory.
            PortalError: nobody answers.
        """
        try:
            return await self._load(capability, path)
        except AccessDenied:
            # S5.js drops the key of a child when it writes the parent anew; who writes it derives
            # the key.
            derived = with_derived_key(capability, self.crypto)
            if derived is None:
                raise
            return await self._load(derived, path)

    async def _load(self, capability: Capability, path: str) -> Loaded:
        if capability.cid.kind is LinkKind.FIXED:
            blob = Multihash(capability.cid.link)
            return await self._loaded(capability, path, 0, blob)
        entry = await self._newest(capability.cid.link, path)
        for _ in range(_MAX_READS):
            if entry is None or not entry.data:
                state = State.MISSING if entry is None else State.DELETED
                return _without_content(capability, path, entry, state)
            try:
                blob = read_blob_pointer(entry.data)
                return await self._loaded(capability, path, entry.revision, blob)
            except CorruptBlob:
                # Another writer may have replaced and released it since the entry was read.
                newest = await self._newest(capability.cid.link, path)
                if newest is None or newest.revision == entry.revision:
                    raise
                entry = newest
        raise WriteConflict(path, f"it changed {_MAX_READS} times while it was read")

    def entries(
        self,
        loaded: Loaded,
        after: str | None,
        *,
        on_node: Callable[[Multihash], None] | None = None,
        allowance: Allowance | None = None,
    ) -> AsyncGenerator[tuple[str, DirectoryEntry]]:
        """Every entry with its HAMT's key: by name, or in a HAMT's own order.

        Args:
            on_node: told of each node's blob that is read on the way.
            allowance: for the nodes; None: as many as there are.
        """
        directory = loaded.directory
        if directory.sharding is None:
            return _in_order(directory, after)
        load = self.node_loader(loaded, on_node, allowance)
        if not directory.files and not directory.dirs:
            return hamt.entries(directory.sharding.root, load, self.crypto, after=after)
        return self._union(directory, directory.sharding, load, after)

    async def _union(
        self, directory: Directory, sharding: Sharding, load: hamt.Load, after: str | None
    ) -> AsyncGenerator[tuple[str, DirectoryEntry]]:
        """Entries beside a HAMT, then those of the HAMT: S5.js writes there what comes after the
        thousandth, so that they are the newer ones."""
        beside = inline_entries(directory)
        if after is None or after in beside:
            async for key, entry in _in_order(directory, after):
                yield key, entry
            after = None
        async for key, entry in hamt.entries(sharding.root, load, self.crypto, after=after):
            if key not in beside:
                yield key, entry

    async def slot(self, loaded: Loaded, name: str) -> tuple[str, NameSlot]:
        """What is there under a name, and how the name is spelled there."""
        return (await self.slots(loaded, [name]))[name]

    async def slots(self, loaded: Loaded, names: Iterable[str]) -> dict[str, tuple[str, NameSlot]]:
        """As `slot`, of many names; nodes of a HAMT are read once for all."""
        spellings = {name: (name, *other_spellings(name)) for name in names}
        every = [spelling for forms in spellings.values() for spelling in forms]
        found = await self._find(loaded, every)
        return {
            name: next(
                ((form, found[form]) for form in forms if not found[form].is_empty),
                (name, NameSlot()),
            )
            for name, forms in spellings.items()
        }

    async def _find(self, loaded: Loaded, names: Sequence[str]) -> dict[str, NameSlot]:
        directory = loaded.directory
        files, dirs = directory.files, directory.dirs
        if directory.sharding is None:
            return {
                name: NameSlot(file=files.get(name), directory=dirs.get(name)) for name in names
            }
        keys = [kind + name for name in names for kind in (FILE_KEY, DIRECTORY_KEY)]
        load = self.node_loader(loaded, None, Allowance(LOOKUP_BYTES * len(names)))
        entries = await hamt.lookup_many(directory.sharding.root, keys, load, self.crypto)
        slots: dict[str, NameSlot] = {}
        for name in names:
            file = files.get(name, entries.get(FILE_KEY + name))
            ref = dirs.get(name, entries.get(DIRECTORY_KEY + name))
            slots[name] = NameSlot(
                file=file if isinstance(file, FileRef) else None,
                directory=ref if isinstance(ref, DirRef) else None,
            )
        return slots

    def node_loader(
        self,
        loaded: Loaded,
        on_node: Callable[[Multihash], None] | None = None,
        allowance: Allowance | None = None,
    ) -> hamt.Load:
        """Fetches, opens and decodes the nodes of a directory's HAMT."""

        async def load(digest: bytes) -> DecodedNode:
            if on_node is not None:
                on_node(Multihash(digest))
            key = digest, loaded.capability.cid.encryption_key or b""
            if (refused := self._refused.get(key)) is not None:
                raise RemoteProtocolError(refused)
            data = await self._node(digest, loaded)
            if allowance is not None:
                allowance.spend(len(data), loaded.path)
            try:
                return await self._decoding.run(len(data), partial(decode_node, data))
            except RemoteProtocolError as error:
                self._refused.put(key, str(error), 1)
                raise

        return load

    async def _newest(self, public_key: bytes, path: str) -> SignedEntry | None:
        known = self._seen.get(public_key)
        entry = await self._registry.get(public_key)
        seen = self._seen.get(public_key)
        if entry is not None and entry.is_newer(seen):
            self._seen.put(public_key, entry, 1)
            return entry
        if seen is None:
            return None
        if entry is None or entry.revision < seen.revision:
            is_older_than_known = known is not None and (
                entry is None or entry.revision < known.revision
            )
            if not is_older_than_known:
                return seen  # another task met a newer one while this one asked
            answer = "no revision" if entry is None else f"revision {entry.revision}"
            raise PortalLied(
                "the S5 registry",
                f"it answers {answer} of the directory {path!a} after revision {seen.revision}: "
                "an old entry is replayed, or a portal lost its newest ones; nothing was changed",
            )
        if entry.data != seen.data:
            self._seen.put(public_key, entry, 1)
            raise WriteConflict(
                path,
                f"the registry has two entries of revision {entry.revision}, written through "
                "portals that do not share theirs: look at the directory and write again",
            )
        return entry

    async def _loaded(
        self, capability: Capability, path: str, revision: int, blob: Multihash
    ) -> Loaded:
        decoded = await self._directory(blob, capability, path)
        return Loaded(
            capability=capability,
            path=path,
            state=State.PRESENT,
            revision=revision,
            directory=decoded.directory,
            blob=blob,
            content=decoded.content,
        )

    async def _directory(self, blob: Multihash, capability: Capability, path: str) -> _Decoded:
        key = capability.cid.encryption_key
        cached = self._decoded.get((blob.digest, key or b""))
        if cached is not None:
            return cached
        data = await self._opened(blob, key, MAX_MUTABLE_BYTES, path)
        try:
            directory = await self._decoding.run(len(data), partial(decode_directory, data))
        except RemoteProtocolError as exc:
            raise RemoteProtocolError(f"the directory {path!a} cannot be read: {exc}") from exc
        content = content_hash(data, directory.header, self.crypto)
        decoded = _Decoded(directory, content)
        self._decoded.put((blob.digest, key or b""), decoded, len(data) * _DECODED_WEIGHT)
        return decoded

    async def _node(self, digest: bytes, loaded: Loaded) -> bytes:
        key = loaded.capability.cid.encryption_key
        cached = self._nodes.get((digest, key or b""))
        if cached is not None:
            return cached
        data = await self._opened(Multihash(digest), key, MAX_HAMT_NODE_BYTES, loaded.path)
        self._nodes.put((digest, key or b""), data, len(data))
        return data

    async def _opened(self, blob: Multihash, key: bytes | None, max_bytes: int, path: str) -> bytes:
        try:
            data = await self.blobs.get(blob, max_bytes=_sealed_limit(max_bytes))
        except NotFound as exc:
            raise CorruptBlob(blob.to_bytes().hex(), f"the directory {path!a}") from exc
        if not is_sealed_mutable(data):
            return data
        if key is None:
            raise AccessDenied(
                f"the directory {path or '/'!a} is encrypted, and its key was not given: what "
                "`fabstir s5 share` prints has it, the CID that `ls` shows has not"
            )
        try:
            return open_mutable(data, key, self.crypto, max_bytes=_sealed_limit(max_bytes))
        except RemoteProtocolError as exc:
            if exc.code == "DECRYPTION_FAILED":
                raise AccessDenied(
                    f"the directory {path or '/'!a} does not open with this key: the key is "
                    "another directory's, or the link leads to a blob that is none"
                ) from exc
            raise

    def authorship(self, loaded: Loaded) -> Authorship:
        """Who wrote a version; one that is not there yet will be ours."""
        if loaded.state is not State.PRESENT:
            return Authorship.OURS
        if self._author is None or loaded.capability.cid.kind is LinkKind.FIXED:
            return Authorship.OTHERS
        return self._author.recognize(
            loaded.directory.header, loaded.content, loaded.capability.cid.link, loaded.revision
        )

    # -- writing ----------------------------------------------------------------------------------

    def mark(
        self, directory: Directory, encoded: Encoded, before: Loaded
    ) -> tuple[Directory, Encoded]:
        """Say that the version after `before` is ours. Its header has room for that."""
        if self._author is None:
            return directory, encoded
        is_ours = self.authorship(before) is Authorship.OURS
        marked, mark = self._author.mark(
            encoded,
            before.capability.cid.link,
            before.revision + 1,
            Authorship.OURS if is_ours else Authorship.MIXED,
        )
        return replace(directory, header={**directory.header, MARK: mark}), marked

    def prepare_node(self, node: bytes, capability: Capability) -> tuple[bytes, bytes]:
        """A node of a HAMT, sealed as its directory is, and the digest of that."""
        sealed = self._sealed(node, capability)
        digest = self.crypto.blake3(sealed)
        self._nodes.put((digest, capability.cid.encryption_key or b""), node, len(node))
        return sealed, digest

    def encode(self, directory: Directory, after: Loaded) -> Encoded:
        """The bytes of a directory that follows a version that was loaded."""
        if self.dialect is not DirectoryDialect.CANONICAL:
            data = encode_directory(directory, self.dialect)
            return Encoded(data=data, dirs={}, files={})
        before = self._encoded.get(after.blob.digest) if after.blob is not None else None
        return encode_canonical_directory(directory, before)

    async def store_directory(
        self,
        directory: Directory,
        encoded: Encoded,
        capability: Capability,
        beside: Sequence[Unstored] = (),
    ) -> Multihash:
        """Keep a directory, and files that it is the first to name, with one wait for the disk."""
        sealed = self._sealed(encoded.data, capability)
        digest = self.crypto.blake3(sealed)
        try:
            link = capability.cid.link
            files = [
                replace(file, reason=self.reason("file", link)) if file.is_own else file
                for file in beside
            ]
            own = Unstored(sealed, self.reason("directory", link), may_use_reserve=True)
            await put_all(self.blobs, [own, *files])
        except StorageError:
            if capability.cid.encryption_key is not None:
                await self.release([Multihash(digest)])
            raise
        key = (digest, capability.cid.encryption_key or b"")
        content = content_hash(encoded.data, directory.header, self.crypto)
        decoded = _Decoded(directory, content)
        self._decoded.put(key, decoded, len(encoded.data) * _DECODED_WEIGHT)
        self._encoded.put(digest, encoded, len(encoded.data) * _ENCODED_WEIGHT)
        return Multihash(digest)

    async def publish(self, capability: Capability, revision: int, blob: Multihash | None) -> None:
        """Let a directory's link lead to a blob; None: to nothing, it is deleted.

        Raises:
            LostRace: somebody else published this revision, or a higher one.
            AccessDenied: the capability only reads.
        """
        if capability.write_key is None:
            raise AccessDenied("this directory was shared for reading only")
        data = b"" if blob is None else blob_pointer(blob)
        entry = sign_entry(capability.write_key, revision, data, self.crypto)
        try:
            await self._registry.set(entry)
        except WriteConflict as exc:
            newest = await self._registry.get(entry.public_key)
            if newest is None or (newest.revision, newest.data) != (revision, data):
                is_certain = newest is not None and newest.revision == revision
                raise LostRace(exc.what, is_certain=is_certain) from exc
        self._seen.put(entry.public_key, entry, 1)

    async def is_taken(self, public_key: bytes, path: str) -> bool:
        """Whether there is, or ever was, a directory of this key."""
        return await self._newest(public_key, path) is not None

    async def revision(self, capability: Capability, path: str) -> int:
        """The newest one of a mutable directory, whether it can be read or not; 0: it has none."""
        entry = await self._newest(capability.cid.link, path)
        return 0 if entry is None or not entry.data else entry.revision

    async def keep(self, blob: Multihash, link: bytes) -> None:
        """Pin a directory again that may have been let go of."""
        data = await self.blobs.get(blob, max_bytes=_sealed_limit(MAX_MUTABLE_BYTES))
        reason = self.reason("directory", link)
        await self.blobs.put(data, reason=reason, may_use_reserve=True)

    async def release(self, blobs: Iterable[Multihash]) -> None:
        """Drop pins of blobs that nothing names any more.

        What was written is durable by now, so a store that fails here only keeps too much.
        """
        try:
            await self.blobs.release(list(blobs))
        except StorageError as exc:
            _LOG.warning("old blobs stay until the next vacuum", extra={"reason": str(exc)})

    async def relabel(self, blobs: Iterable[Multihash], reason: str) -> None:
        """Say for which directory blobs are kept, or that this is not known.

        Raises:
            StorageError: what a vacuum may take for garbage would be wrong.
        """
        wanted = list(blobs)
        if wanted:
            await self.blobs.relabel(wanted, reason=reason)

    def reason(self, what: str, link: bytes = b"") -> str:
        """Why a blob of this tree is pinned, and for which directory alone, if for one."""
        return f"{self.label}:{link[:LABEL_BYTES].hex()}:{what}" if link else f"{self.label}:{what}"

    def label_of(self, reason: str) -> tuple[str, str]:
        """What a pin of this tree is: the label of its directory ("": unknown), and the word."""
        directory, _, what = reason.removeprefix(f"{self.label}:").rpartition(":")
        return directory, what

    def _sealed(self, data: bytes, capability: Capability) -> bytes:
        key = capability.cid.encryption_key
        if key is None:
            return data
        return seal_mutable(data, key, self.random(NONCE_BYTES), self.crypto)


def _without_content(
    capability: Capability, path: str, entry: SignedEntry | None, state: State
) -> Loaded:
    revision = 0 if entry is None else entry.revision
    return Loaded(capability=capability, path=path, state=state, revision=revision, directory=EMPTY)


def _sealed_limit(max_bytes: int) -> int:
    """The longest blob that may hold so many bytes: sealing pads by at most 5 %, or 4 KiB."""
    return padded_size(max_bytes + MUTABLE_OVERHEAD_BYTES)


async def _in_order(
    directory: Directory, after: str | None
) -> AsyncGenerator[tuple[str, DirectoryEntry]]:
    """By name, as code points are ordered; of one name the directory first."""
    entries = inline_entries(directory)
    for name, key in sorted((key[len(FILE_KEY) :], key) for key in entries):
        if after is None or (name, key) > (after[len(FILE_KEY) :], after):
            yield key, entries[key]


def inline_entries(directory: Directory) -> dict[str, DirectoryEntry]:
    """What stands in a directory itself, under a HAMT's keys."""
    return {
        **{FILE_KEY + name: file for name, file in directory.files.items()},
        **{DIRECTORY_KEY + name: ref for name, ref in directory.dirs.items()},
    }
