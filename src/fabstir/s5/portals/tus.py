"""Resumable uploads, protocol TUS 1.0.0 at /s5/upload/tus.

The hash travels first (metadata `hash`), so that a portal refuses what does not match it at the
end. An upload that broke off, here or by the end of this process, goes on at the offset that the
portal has.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from typing import Final

import httpx

from fabstir.primitives.errors import NotFound, PortalLied, PortalRefused, PortalUnavailable
from fabstir.s5.portals.answers import encode_base64url, is_same_blob, parse_cid
from fabstir.s5.portals.http import PortalHttp
from fabstir.s5.portals.retrying import keep_trying
from fabstir.s5.portals.source import OnBytesFetched, UploadSource

TUS_VERSION: Final = "1.0.0"
TUS_PATH: Final = "/s5/upload/tus"
TUS_CHUNK_BYTES: Final = 8 * 1024 * 1024
"""Bytes of one PATCH. At 10 MB/s a lost connection costs less than a second of sending again; a
portal that holds a PATCH in memory holds no more."""

_HEADERS = {"Tus-Resumable": TUS_VERSION}
_MAX_LOCATION_CHARS = 2048
_NUMBER = re.compile(r"[0-9]{1,20}")
_GONE = frozenset({403, 404, 410})
"""How servers say that they know no such upload (any more): TUS allows each of them."""

OnLocation = Callable[[str | None], Awaitable[None]]
"""Gets where the upload can be resumed, before its first byte is sent; None: nowhere any more."""


class TusUpload:
    """One upload of one blob to one portal."""

    def __init__(
        self,
        http: PortalHttp,
        token: str | None,
        source: UploadSource,
        *,
        location: str | None = None,
        on_location: OnLocation | None = None,
        on_progress: OnBytesFetched | None = None,
        chunk_bytes: int = TUS_CHUNK_BYTES,
    ) -> None:
        """
        Args:
            location: where an earlier try of this very upload left off: what `on_location` got.
        """
        self._http = http
        self._token = token
        self._source = source
        self._location = location
        self._on_location = on_location
        self._on_progress = on_progress
        self._chunk_bytes = chunk_bytes
        self._offset = 0
        self._was_there = False

    async def run(self) -> bool:
        """Upload everything that the portal does not have yet.

        Returns:
            Whether the portal had the blob already: then it is not pinned to the account by this.

        Raises:
            PortalError: as `PortalHttp.ask`; 404, 405 and 501 where there is no TUS at all.
            StorageError: the source fails.
        """
        with self._http.measured("tus"):
            await keep_trying(self._attempt, lambda: self._offset, self._http.patience)
        return self._was_there

    async def _attempt(self) -> None:
        if self._location is None or not await self._find_offset():
            await self._create()
        while self._offset < self._source.blob.size and not self._was_there:
            await self._send_chunk()

    async def _create(self) -> None:
        self._offset = 0
        metadata = encode_base64url(self._source.blob.multihash.to_bytes()).encode()
        answer = await self._ask(
            "POST",
            TUS_PATH,
            {
                "Upload-Length": str(self._source.blob.size),
                "Upload-Metadata": f"hash {base64.b64encode(metadata).decode()}",
            },
            frozenset({201, 409}),
        )
        self._check_cid(answer[1])
        self._was_there = answer[0] == 409
        if not self._was_there:
            await self._note(self._own_path(answer[1].get("Location", "")))

    async def _find_offset(self) -> bool:
        """Ask how far the portal is; False: it knows nothing of this upload."""
        assert self._location is not None, "asked only for an upload that was created"
        try:
            _, headers = await self._ask("HEAD", self._location, {}, frozenset({200, 204}))
        except (NotFound, PortalRefused) as exc:
            if isinstance(exc, PortalRefused) and exc.status not in _GONE:
                raise
            await self._note(None)
            return False
        length = headers.get("Upload-Length")
        if length is not None and length != str(self._source.blob.size):
            raise PortalLied(
                self._http.url,
                f"it says that an upload of {self._source.blob.size} bytes has {length[:20]!r}",
            )
        self._move_to(self._read_offset(headers, self._source.blob.size))
        return True

    async def _send_chunk(self) -> None:
        assert self._location is not None, "chunks follow the creation"
        start = self._offset
        length = min(self._chunk_bytes, self._source.blob.size - start)
        sent = {"Upload-Offset": str(start), "Content-Type": "application/offset+octet-stream"}
        accept = frozenset({200, 204})
        try:
            _, headers = await self._ask("PATCH", self._location, sent, accept, start, length)
        except (NotFound, PortalRefused) as exc:
            if isinstance(exc, PortalRefused) and exc.status not in _GONE | {409}:
                raise
            # It forgot the upload (the Dart node does so when it restarts), or has another offset.
            reason = "it does not go on with an upload that it began"
            raise PortalUnavailable(self._http.url, reason) from exc
        self._check_cid(headers)
        if "Upload-Offset" in headers:
            self._move_to(self._read_offset(headers, start + length))
        else:  # the Dart node says it only with the last chunk
            self._move_to(start + length)
        if self._offset == start:
            raise PortalLied(self._http.url, "it takes a chunk of an upload and keeps nothing")

    async def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        accept: frozenset[int],
        start: int = 0,
        length: int = 0,
    ) -> tuple[int, httpx.Headers]:
        answer = await self._http.ask(
            method,
            path,
            operation="tus_request",
            accept=accept,
            token=self._token,
            headers=_HEADERS | headers,
            content=self._source.part(start, length) if length else None,
            num_bytes=length,
        )
        return answer.status, answer.headers

    def _check_cid(self, headers: httpx.Headers) -> None:
        """Compare the identifier that our own node answers with, where there is one."""
        text = headers.get("Upload-Cid")
        if text is None:
            return
        with self._http.believing():
            claimed = parse_cid(text)
        if not is_same_blob(claimed, self._source.blob):
            ours = self._source.blob.encode("z")
            raise PortalLied(self._http.url, f"it took {ours} and answers with {text[:80]!r}")

    async def _note(self, location: str | None) -> None:
        self._location = location
        if self._on_location is not None:
            await self._on_location(location)

    def _move_to(self, offset: int) -> None:
        self._offset = offset
        if self._on_progress is not None:
            self._on_progress(offset, self._source.blob.size)

    def _read_offset(self, headers: httpx.Headers, most: int) -> int:
        text = headers.get("Upload-Offset", "")
        if not _NUMBER.fullmatch(text) or int(text) > most:
            raise PortalLied(
                self._http.url, f"it has {text[:20]!r} bytes of an upload of which {most} were sent"
            )
        return int(text)

    def _own_path(self, location: str) -> str:
        """The path of the upload, on the origin that was asked.

        Behind a proxy portals name themselves by http:// or an inner port; another host would get
        the account's token.
        """
        try:
            url = httpx.URL(self._http.url + TUS_PATH).join(location)
        except (httpx.InvalidURL, ValueError) as exc:
            raise PortalLied(self._http.url, "it creates an upload at what is no URL") from exc
        if not location or len(location) > _MAX_LOCATION_CHARS:
            raise PortalLied(self._http.url, "it creates an upload and does not say where")
        if url.host != httpx.URL(self._http.url).host:
            raise PortalLied(self._http.url, f"it sends an upload to another host, {url.host}")
        return url.raw_path.decode("ascii")
