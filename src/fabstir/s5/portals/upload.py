"""POST /s5/upload: a blob in one request."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fabstir.primitives.errors import PortalLied, PortalRefused
from fabstir.s5.portals.answers import is_same_blob, parse_uploaded
from fabstir.s5.portals.http import PortalAnswer, PortalHttp
from fabstir.s5.portals.source import OnBytesFetched, UploadSource
from fabstir.s5.portals.spool import SPOOL_MEMORY_BYTES

_WANTS_A_FORM = frozenset({400, 415, 422})


class PlainUpload:
    """Uploads to one portal: the bytes as they are, or as a form where a portal wants one."""

    def __init__(self, http: PortalHttp) -> None:
        self._http = http
        self._wants_forms = False

    async def run(
        self, source: UploadSource, token: str | None, on_progress: OnBytesFetched | None
    ) -> None:
        """Send everything and compare the identifier that comes back.

        Raises:
            PortalLied: it is another blob's.
            PortalError: the portal does not answer, or refuses.
        """
        answer = await self._post(source, token)
        with self._http.believing():
            claimed = parse_uploaded(answer.body)
        if not is_same_blob(claimed, source.blob):
            raise PortalLied(
                self._http.url,
                f"it took {source.blob.encode('z')} and answers with {claimed.encode('z')}",
            )
        if on_progress is not None:
            on_progress(source.blob.size, source.blob.size)

    async def _post(self, source: UploadSource, token: str | None) -> PortalAnswer:
        if not self._wants_forms:
            try:
                return await self._send(source, token, "application/octet-stream", b"", b"")
            except PortalRefused as exc:
                if exc.status not in _WANTS_A_FORM:
                    raise
                self._wants_forms = True
        # A separator that the content cannot have: it is made of the content's own hash.
        edge = f"fabstir{source.blob.digest.hex()}"
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        kind = f"multipart/form-data; boundary={edge}"
        return await self._send(source, token, kind, head.encode(), f"\r\n--{edge}--\r\n".encode())

    async def _send(
        self, source: UploadSource, token: str | None, kind: str, head: bytes, tail: bytes
    ) -> PortalAnswer:
        size = len(head) + source.blob.size + len(tail)
        content: bytes | AsyncGenerator[bytes] = _framed(source, head, tail)
        if source.blob.size <= SPOOL_MEMORY_BYTES:
            content = b"".join([piece async for piece in content])
        return await self._http.ask(
            "POST",
            "/s5/upload",
            operation="upload",
            accept=frozenset({200, 201}),
            token=token,
            headers={"Content-Type": kind},
            content=content,
            num_bytes=size,
        )


async def _framed(source: UploadSource, head: bytes, tail: bytes) -> AsyncGenerator[bytes]:
    if head:
        yield head
    async for piece in source.part(0, source.blob.size):
        yield piece
    if tail:
        yield tail
