"""One S5 portal over HTTP: accounts, blobs, pins and the registry."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import (
    NotFound,
    PortalError,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    WriteConflict,
)
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.portals.answers import (
    AccountStats,
    LocationAnswer,
    PortalNode,
    encode_base64url,
    parse_account,
    parse_locations,
    parse_nodes,
    parse_registry,
    parse_version,
    registry_json,
)
from fabstir.s5.portals.download import Download, fetch_range
from fabstir.s5.portals.groups import (
    Trees,
    fetch_tree,
    has_groups,
    read_groups,
    verified_run,
)
from fabstir.s5.portals.http import PortalAnswer, PortalHttp
from fabstir.s5.portals.retrying import keep_trying
from fabstir.s5.portals.revisions import Revisions
from fabstir.s5.portals.session import PortalSession
from fabstir.s5.portals.source import OnBytesFetched, UploadSource, bytes_source
from fabstir.s5.portals.spool import Spool, open_spool
from fabstir.s5.portals.tus import OnLocation, TusUpload
from fabstir.s5.portals.upload import PlainUpload
from fabstir.s5.verified.tree import GroupTree

SMALL_UPLOAD_BYTES: Final = 4 * 1024 * 1024
"""Longest upload of one request. Portals hold those in memory; longer ones are resumable."""

_NO_TUS = frozenset({405, 501})


class Portal:
    """One portal, with or without an account there.

    Attributes:
        url: its origin.
        session: the account's token and how to get a new one.
    """

    def __init__(
        self,
        http: PortalHttp,
        crypto: Crypto,
        session: PortalSession | None = None,
        *,
        spool_folder: Path | None = None,
    ) -> None:
        """
        Args:
            session: None: only what the portal lets everybody do.
            spool_folder: for downloads that are not verified yet; None: the system's.
        """
        self.url = http.url
        self.http = http
        self.session = session or PortalSession(http, crypto)
        self._crypto = crypto
        self._spool_folder = spool_folder
        self._revisions = Revisions()
        self._plain = PlainUpload(http)
        self._trees = Trees()

    @property
    def spool_folder(self) -> Path | None:
        """Where downloads wait for their verification."""
        return self._spool_folder

    async def account(self) -> AccountStats:
        """Who the token belongs to; without the sizes."""
        answer = await self._ask("GET", "/s5/account", "account")
        with self.http.believing():
            return parse_account(answer.body)

    async def stats(self) -> AccountStats:
        """The account with how much it stores and may store."""
        answer = await self._ask("GET", "/s5/account/stats", "stats")
        with self.http.believing():
            return parse_account(answer.body)

    # Blobs

    async def upload(
        self,
        source: UploadSource | bytes,
        *,
        location: str | None = None,
        on_location: OnLocation | None = None,
        on_progress: OnBytesFetched | None = None,
    ) -> BlobId:
        """Store a blob, pinned to the account.

        Args:
            source: bytes, or something that can be read again from any offset.
            location: where an earlier try of this upload can be resumed.
            on_location: is told where this one can be.

        Returns:
            Our own identifier of it: the portal's has been compared.

        Raises:
            PortalLied: it answers with another blob's identifier.
            PortalError: it does not answer, or refuses.
        """
        if isinstance(source, bytes):
            source = bytes_source(source, self._crypto)
        blob = source.blob

        async def send(token: str | None) -> None:
            if blob.size > SMALL_UPLOAD_BYTES:
                upload = TusUpload(
                    self.http,
                    token,
                    source,
                    location=location,
                    on_location=on_location,
                    on_progress=on_progress,
                )
                try:
                    was_there = await upload.run()
                except NotFound:
                    pass  # it knows no TUS
                except PortalRefused as exc:
                    if exc.status not in _NO_TUS:
                        raise
                else:
                    if was_there and token is not None:
                        await self.pin(blob)
                    return
            await self._plain.run(source, token, on_progress)

        await self.session.run(send)
        return blob

    async def get(self, blob: Multihash, *, max_bytes: int) -> bytes:
        """A whole blob, verified.

        Raises:
            NotFound: the portal does not have it.
            BlobTooLarge: it says that it is longer than `max_bytes`.
            PortalError: it lied, refused or does not answer.
        """
        async with open_spool(self._spool_folder) as spool:
            await self.fetch(blob, None, spool, max_bytes=max_bytes)
            return b"".join([piece async for piece in spool.read(0, spool.size)])

    async def read(
        self,
        blob: BlobId,
        start: int = 0,
        end: int | None = None,
        *,
        on_progress: OnBytesFetched | None = None,
    ) -> AsyncGenerator[bytes]:
        """A part of a blob, in pieces.

        Of a long one whose outboard the portal has, only what is asked for is fetched, and each
        group verified; of any other the whole, into a temporary file, before the first piece.

        Raises:
            As `get`, from the iteration; also StorageFull.
        """
        end = blob.size if end is None else min(end, blob.size)
        tree = await self.tree(blob)
        if tree is not None:
            done, reads = 0, read_groups(start, end, lambda f, n: self.run(tree, f, n))
            async with aclosing(reads):
                async for piece in reads:
                    yield piece
                    done += len(piece)
                    if on_progress is not None:
                        on_progress(done, end - start)
            return
        async with open_spool(self._spool_folder) as spool:
            await self.fetch(
                blob.multihash, blob.size, spool, max_bytes=blob.size, on_progress=on_progress
            )
            async for piece in spool.read(start, end):
                yield piece

    async def tree(self, blob: BlobId) -> GroupTree | None:
        """What the groups of a long blob hash to; None: the portal does not say."""
        if not has_groups(blob):
            return None
        return await self._trees.get(
            blob,
            lambda: self.session.run(lambda token: fetch_tree(self.http, token, blob)),
        )

    async def run(self, tree: GroupTree, first: int, count: int) -> bytes:
        """Some groups of a blob, verified. Raises as `unverified_range`, and PortalLied."""

        async def fetch(start: int, end: int) -> bytes:
            return await keep_trying(
                lambda: self.unverified_range(tree.blob, start, end),
                lambda: 0,
                self.http.patience,
            )

        return await verified_run(self.url, tree, first, count, fetch)

    async def fetch(
        self,
        blob: Multihash,
        size: int | None,
        spool: Spool,
        *,
        max_bytes: int,
        on_progress: OnBytesFetched | None = None,
    ) -> None:
        """A whole blob into an empty spool, verified. Raises as `get`, and StorageFull."""

        async def download(token: str | None) -> None:
            await Download(
                self.http, token, blob, size, spool, max_bytes=max_bytes, on_progress=on_progress
            ).run()

        await self.session.run(download)

    async def unverified_range(self, blob: BlobId, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end` as the portal sends them: verify each group.

        Raises:
            PortalError, NotFound: see `download.fetch_range`.
        """
        return await self.session.run(lambda token: fetch_range(self.http, token, blob, start, end))

    async def pin(self, blob: BlobId) -> None:
        """Keep a blob that the portal has or can find, in the account's name.

        Raises:
            NotFound: it does not find it.
            PortalError: as ever.
        """
        path = f"/s5/pin/{blob.encode('z')}"
        await self._ask("POST", path, "pin", frozenset({200, 201, 202, 204}))

    async def unpin(self, blob: Multihash) -> None:
        """Drop the account's pin; no pin is no error."""
        path = f"/s5/delete/{BlobId(blob.digest, 0, blob.type).encode('z')}"
        await self._ask("DELETE", path, "unpin", frozenset({200, 202, 204, 404, 410}))

    async def locations(self, blob: Multihash) -> Sequence[LocationAnswer]:
        """Where the portal says that a blob is; hints, of which nothing is signed."""
        path = f"/s5/debug/storage_locations/{encode_base64url(blob.to_bytes())}"
        answer = await self._ask("GET", path, "locations")
        with self.http.believing():
            return parse_locations(answer.body)

    # Registry

    async def get_entry(self, public_key: bytes) -> SignedEntry | None:
        """The portal's entry of a key, verified.

        Raises:
            PortalLied: it is another key's, not signed, or older than what it had before.
            PortalError: it refuses or does not answer.
        """
        params = {"pk": encode_base64url(encode_multikey(public_key))}
        accept = frozenset({200, 404})
        answer = await self._ask("GET", "/s5/registry", "registry_get", accept, params=params)
        entry = None
        if answer.status == 200:
            with self.http.believing():
                entry = parse_registry(answer.body, public_key, self._crypto)
        newest = self._revisions.newest(public_key)
        revision = -1 if entry is None else entry.revision
        if revision < newest:
            had = "none" if entry is None else str(revision)
            raise PortalLied(
                self.url,
                f"it had revision {newest} of a registry entry and now has {had}: a replay, or it "
                "lost what it acknowledged",
            )
        self._revisions.note(public_key, revision)
        return entry

    async def set_entry(self, entry: SignedEntry) -> None:
        """Publish an entry.

        Raises:
            WriteConflict: the portal has another one of this or a higher revision.
            PortalError: it refuses or does not answer, and does not have the entry.
        """
        body = json.dumps(registry_json(entry)).encode()
        accept = frozenset({200, 201, 204})
        try:
            await self._ask("POST", "/s5/registry", "registry_set", accept, content=body)
        except (NotFound, PortalRefused, PortalUnavailable):
            # Portals say "too low" with various statuses, and an answer may get lost on its way
            # back: what the portal has now decides.
            if not await self._has_entry(entry):
                raise
        self._revisions.note(entry.public_key, entry.revision)

    async def _has_entry(self, entry: SignedEntry) -> bool:
        try:
            there = await self.get_entry(entry.public_key)
        except PortalError:
            return False
        if there is None or there.revision < entry.revision:
            return False
        if (there.revision, there.data) == (entry.revision, entry.data):
            return True
        raise WriteConflict(
            f"registry entry {entry.public_key.hex()}",
            f"{self.url} has revision {there.revision}: read it, and write one above it",
        )

    # The portal itself

    async def nodes(self) -> Sequence[PortalNode]:
        """The nodes it names for P2P connections."""
        answer = await self.http.ask("GET", "/s5/p2p/nodes", operation="nodes")
        with self.http.believing():
            return parse_nodes(answer.body)

    async def version(self) -> str:
        """What software it says that it is."""
        answer = await self.http.ask("GET", "/s5/version", operation="version")
        with self.http.believing():
            return parse_version(answer.body)

    async def _ask(
        self,
        method: str,
        path: str,
        operation: str,
        accept: frozenset[int] = frozenset({200}),
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> PortalAnswer:
        """A small request in the account's name."""
        headers = {} if content is None else {"Content-Type": "application/json"}
        return await self.session.run(
            lambda token: self.http.ask(
                method,
                path,
                operation=operation,
                accept=accept,
                token=token,
                headers=headers,
                params=params,
                content=content,
            )
        )
