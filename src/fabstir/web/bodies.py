"""The bodies of requests: their length is checked before they are read, and they come in pieces.

One that breaks off ends in ClientDisconnect, never in a short stream: what takes it keeps nothing
then.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from fabstir.primitives.errors import BlobTooLarge
from fabstir.web.errors import HttpRefusal

MAX_JSON_BYTES = 64 * 1024
"""Longest body that is read into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """How slow a body may be.

    Attributes:
        read_timeout: seconds without a byte after which a body is given up.
        min_bytes_per_second: one that is slower, over more than `read_timeout`, is too.
    """

    read_timeout: float = 30.0
    min_bytes_per_second: int = 1024


async def stream_body(
    request: Request, limits: BodyLimits, *, max_bytes: int
) -> AsyncGenerator[bytes]:
    """The body's pieces.

    Raises:
        BlobTooLarge: longer than `max_bytes`, by its announced length before anything is read.
        HttpRefusal: too slow (408), or compressed (415): the bytes would hash to another blob.
        ClientDisconnect: it broke off.
    """
    _check_head(request, max_bytes)
    num_bytes, waited = 0, 0.0
    while True:
        before = time.monotonic()
        message = await _receive(request, limits)
        waited += time.monotonic() - before
        piece: bytes = message.get("body", b"")
        num_bytes += len(piece)
        if num_bytes > max_bytes:
            raise BlobTooLarge(max_bytes)
        if waited > limits.read_timeout and num_bytes < waited * limits.min_bytes_per_second:
            raise _too_slow(limits)
        if piece:
            yield piece
        if not message.get("more_body", False):
            return


async def _receive(request: Request, limits: BodyLimits) -> Message:
    try:
        with anyio.fail_after(limits.read_timeout):
            message = await request.receive()
    except TimeoutError:
        raise _too_slow(limits) from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


def _too_slow(limits: BodyLimits) -> HttpRefusal:
    return HttpRefusal(
        408,
        "timeout",
        f"the body is too slow: nothing for {limits.read_timeout:g} s, or fewer than "
        f"{limits.min_bytes_per_second} bytes a second",
    )


def _check_head(request: Request, max_bytes: int) -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpRefusal(415, "unsupported_encoding", "send the bytes as they are, uncompressed")
    length = content_length(request)
    if length is not None and length > max_bytes:
        raise BlobTooLarge(max_bytes)


def content_length(request: Request) -> int | None:
    """What the client announces; None: it does not say. The server has checked its form."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


async def read_json(request: Request, limits: BodyLimits) -> bytes:
    """A small body, whole."""
    pieces = stream_body(request, limits, max_bytes=MAX_JSON_BYTES)
    return b"".join([piece async for piece in pieces])
