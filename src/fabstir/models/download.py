"""One file over HTTP into a part file: resumed, retried, never longer than it may be."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

import anyio
import httpx
from anyio import to_thread

from fabstir.db.files import free_bytes, is_full
from fabstir.models._part import ModelPart, discard
from fabstir.models.files import OnProgress
from fabstir.primitives.errors import AddressRefused, ModelDownloadFailed
from fabstir.primitives.ids import Hash32
from fabstir.web.client import WebTransport, named_by_user
from fabstir.web.reach import STRANGERS, Reach

_LOG = logging.getLogger(__name__)

_PARTIAL, _OK, _RANGE_NOT_SATISFIABLE = 206, 200, 416
_CLOSED = frozenset({401, 403})
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may be answered."""

_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)")
"""18 digits are an exabyte; Python refuses to read numbers of more than 4,300."""

MAX_STATED_BYTES = 256 << 30
"""Longest file whose size only its source states: the largest single GGUF files have less."""

MAX_ENDLESS_BYTES = 16 << 30
"""Most that is taken of a body whose end nobody states: every hub and index states it, and small
servers that do not have small models."""

KEPT_FREE_BYTES = 256 << 20
"""A file without a stated end is given up before it leaves less than this of the disk, which the
journals and everybody else need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a download is kept up.

    Attributes:
        stall_timeout: seconds without a single byte after which a try is given up.
        max_failures: tries in a row that bring nothing new.
        first_delay, max_delay: seconds before the next try, doubling.
        max_retry_after: seconds that a source may ask us to wait; it is asked again then.
    """

    stall_timeout: float = 30.0
    max_failures: int = 6
    first_delay: float = 0.5
    max_delay: float = 30.0
    max_retry_after: float = 600.0

    def delay(self, num_failures: int, told: float) -> float:
        """Seconds before the next try, no less than the source asked for (0: it did not)."""
        delay = min(self.max_delay, self.first_delay * 2**num_failures)
        return max(delay, min(self.max_retry_after, told))


class _Interrupted(Exception):
    """A try ended early; the next one may get further."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@asynccontextmanager
async def open_client(url: str, reach: Reach = STRANGERS) -> AsyncGenerator[httpx.AsyncClient]:
    """An HTTP client.

    Its timeout is off because `download` has one of its own, which moves with every byte.

    Args:
        url: the source, which its owner named: it may be anywhere, and if it is in a private
            network, so may what it redirects to.
        reach: where redirects of any other source may lead.
    """
    try:
        origin = httpx.URL(url)
        is_private = await reach.is_private(origin.host, origin.port or 0)
    except (httpx.InvalidURL, ValueError):  # `download` says so
        is_private = False
    transport = WebTransport(
        replace(reach, allow_private=True) if is_private else reach,
        limits=httpx.Limits(),
        trust_env=True,
    )
    client = httpx.AsyncClient(transport=transport, follow_redirects=True, timeout=None)  # noqa: S113
    async with client:
        yield client


async def download(
    client: httpx.AsyncClient,
    url: str,
    part: Path,
    *,
    content: Hash32 | None,
    size_bytes: int | None,
    patience: Patience,
    on_progress: OnProgress | None = None,
    token: str | None = None,
) -> Hash32:
    """Fetch `url` into `part`, going on where an earlier try of the same content ended.

    Args:
        content: the digest that is expected; a part of it from another address is gone on with,
            too. The caller compares it: a source without an ETag may have changed in between.
        token: sent to the origin of `url`, and to no other that it redirects to.

    Returns:
        The digest of what came, hashed as it came.

    Raises:
        ModelDownloadFailed: the source refuses, has a file of another size, or kept failing.
    """
    started = await to_thread.run_sync(ModelPart.resumed, part, content or _address(url))
    task = _Download(client, url, started, size_bytes, patience.stall_timeout, on_progress, token)
    failures, furthest = 0, started.size
    while started.size != size_bytes:
        try:
            await task.run()
            break
        except _Interrupted as exc:
            failures = 0 if started.size > furthest else failures + 1
            furthest = max(started.size, furthest)
            if failures >= patience.max_failures:
                raise ModelDownloadFailed(
                    f"{shown(url)} failed {failures} times in a row ({exc}) with {started.size} "
                    "bytes kept: check the network and try again, which resumes"
                ) from exc
            delay = patience.delay(failures, exc.retry_after)
            _LOG.warning(
                "download interrupted",
                extra={
                    "url": shown(url),
                    "reason": str(exc),
                    "kept": started.size,
                    "delay": delay,
                },
            )
            await anyio.sleep(delay)
    return started.sha256


def require_room(part: Path, total: int, missing: int) -> None:
    """See that a file may be so long, and that the disk has room for what is missing.

    Raises:
        ModelDownloadFailed: it is too long, or does not fit.
    """
    free = free_bytes(part.parent)
    if total > MAX_STATED_BYTES or missing > free:
        raise ModelDownloadFailed(
            f"the model's file has {total} bytes, of which {missing} are to be written, and "
            f"{part.parent} has {free} free: free disk space, choose another paths.cache_dir, or "
            "correct the model's source"
        )


def refuse_closed(url: str, response: httpx.Response) -> None:
    """Raises ModelDownloadFailed: whoever has this address does not give the file to us."""
    if response.status_code in _CLOSED:
        raise ModelDownloadFailed(
            f"{shown(url)} answers HTTP {response.status_code}: the model may be gated. Accept its "
            "terms at the hub, put an access token into a file of mode 0600, and set hub.token_file"
        )


def shown(url: str) -> str:
    """An address without what may be secret in it: user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the model's address"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _address(url: str) -> str:
    """Stands for an address, which may hold a password, in the file beside the part."""
    return hashlib.sha256(url.encode()).hexdigest()


def retry_after(response: httpx.Response) -> float:
    """Seconds, from either form of the header (RFC 9110, 10.2.3); 0 where it says nothing."""
    told = response.headers.get("Retry-After", "")
    if told.isdecimal():
        return float(told)
    try:
        when = parsedate_to_datetime(told)
        return max(0.0, when.timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


@dataclass(slots=True)
class _Download:
    client: httpx.AsyncClient
    url: str
    part: ModelPart
    size_bytes: int | None
    stall_timeout: float
    on_progress: OnProgress | None
    token: str | None

    async def run(self) -> None:
        """One try.

        Raises:
            _Interrupted: it may be tried again.
            ModelDownloadFailed: it may not.
        """
        offset = self.part.size
        try:
            with anyio.fail_after(self.stall_timeout) as stalled:
                async with self.client.stream(
                    "GET",
                    self.url,
                    headers=self._headers(offset),
                    extensions=named_by_user(self.url),
                ) as r:
                    await self._receive(r, offset, stalled)
        except TimeoutError as exc:
            raise _Interrupted(f"nothing came for {self.stall_timeout:g} s") from exc
        except AddressRefused as exc:
            raise ModelDownloadFailed(
                f"{shown(self.url)} redirects to where it must not: {exc}"
            ) from exc
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as exc:
            raise ModelDownloadFailed(
                f"{shown(self.url)} cannot be fetched ({exc}): correct the model's source"
            ) from exc
        except httpx.HTTPError as exc:
            raise _Interrupted(str(exc) or type(exc).__name__) from exc

    def _headers(self, offset: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.part.validator and self._is_from_here():
                headers["If-Range"] = self.part.validator
        return headers

    def _is_from_here(self) -> bool:
        return self.part.url == _address(self.url)

    async def _receive(
        self, response: httpx.Response, offset: int, stalled: anyio.CancelScope
    ) -> None:
        if response.status_code == _RANGE_NOT_SATISFIABLE and offset:
            return self._end_of_range(response, offset)
        self._refuse_failure(response)
        start, total = self._extent(response, offset)
        if total is not None and self.size_bytes not in {None, total}:
            raise ModelDownloadFailed(
                f"{shown(self.url)} has {total} bytes and {self.size_bytes} are expected: it is "
                "another file; correct the model's source"
            )
        if total is not None:
            require_room(self.part.path, total, total - start)
        if not start:
            await to_thread.run_sync(self.part.begin, _address(self.url), _validator(response))
        with self.part.open() as file:
            async for chunk in response.aiter_raw():
                stalled.deadline = anyio.current_time() + self.stall_timeout
                self._refuse_excess(self.part.size + len(chunk), total)
                await to_thread.run_sync(self._write, file, chunk, total)
                if self.on_progress is not None:
                    self.on_progress(self.part.size, total or self.size_bytes or 0)
        if total is not None and self.part.size < total:
            raise _Interrupted(f"the connection ended after {self.part.size} of {total} bytes")
        return None

    def _end_of_range(self, response: httpx.Response, offset: int) -> None:
        """Nothing lies behind what we have: it is complete, or the file has shrunk."""
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or match[2] != str(offset):
            self._start_again()
            raise _Interrupted("the file at the source has changed")

    def _refuse_failure(self, response: httpx.Response) -> None:
        status = f"HTTP {response.status_code} {response.reason_phrase}".strip()
        if response.status_code in RETRIED:
            raise _Interrupted(status, retry_after(response))
        refuse_closed(self.url, response)
        if response.status_code not in {_OK, _PARTIAL}:
            raise ModelDownloadFailed(
                f"{shown(self.url)} answers {status}: correct the model's source, or put the "
                "file in place yourself and set model.path"
            )

    def _extent(self, response: httpx.Response, offset: int) -> tuple[int, int | None]:
        """Where the body starts, and how long the whole file is."""
        if response.status_code == _OK:
            length = response.headers.get("Content-Length", "")
            return 0, int(length) if length.isdecimal() else None
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or match[1] != str(offset):
            self._start_again()
            raise _Interrupted("the source answers with another range than was asked for")
        if self._is_from_here() and _validator(response) not in {"", self.part.validator}:
            self._start_again()
            raise _Interrupted("the file at the source has changed meanwhile")
        return offset, int(match[2]) if match[2].isdecimal() else None

    def _start_again(self) -> None:
        self.part.begin(_address(self.url), "")

    def _refuse_excess(self, reached: int, total: int | None) -> None:
        limit = total if total is not None else self.size_bytes
        if limit is None:
            self._refuse_endless(reached)
        elif reached > limit:
            discard(self.part.path)  # none of it is of the file that is expected
            raise ModelDownloadFailed(
                f"{shown(self.url)} sends more than the {limit} bytes expected: it is another "
                "file; correct the model's source"
            )

    def _write(self, file: BinaryIO, chunk: bytes, total: int | None) -> None:
        try:
            self.part.write(file, chunk)
        except OSError as exc:
            if is_full(exc) and total is None and self.size_bytes is None:
                raise self._endless(self.part.size) from exc
            raise

    def _refuse_endless(self, reached: int) -> None:
        if reached > MAX_ENDLESS_BYTES or free_bytes(self.part.path.parent) < KEPT_FREE_BYTES:
            raise self._endless(reached)

    def _endless(self, reached: int) -> ModelDownloadFailed:
        discard(self.part.path)
        return ModelDownloadFailed(
            f"{shown(self.url)} does not say how long the file is, and has sent {reached} "
            "bytes: it may have no end, so nothing of it is kept. Free disk space if it is the "
            "right source, or put the file in place yourself and set model.path"
        )


def _validator(response: httpx.Response) -> str:
    """A weak ETag may not be used for ranges (RFC 9110, 13.1.5)."""
    told: str = response.headers.get("ETag", "")
    if told and not told.startswith("W/"):
        return told
    return str(response.headers.get("Last-Modified", ""))
