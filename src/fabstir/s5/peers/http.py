"""A blob from the URL of a storage location, believed only when its hash is right."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from fabstir.primitives.cid import HashType, Multihash
from fabstir.primitives.errors import (
    AddressRefused,
    BlobTooLarge,
    PortalError,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
)
from fabstir.protocol.crypto import Crypto
from fabstir.web.client import WebTransport, named_by_user
from fabstir.web.reach import Reach

_MAX_CONNECTIONS = 32

_NO_HEAD = {403, 405, 501}
"""What servers answer that only give: signed URLs of object stores are good for GET alone."""


@asynccontextmanager
async def open_http(timeout: float, reach: Reach) -> AsyncGenerator[httpx.AsyncClient]:
    """The client for locations. It follows no redirects: a location is signed, its target is not.

    Args:
        reach: where locations may lead.
        timeout: for connecting, and for each part of an answer.
    """
    limits = httpx.Limits(max_connections=_MAX_CONNECTIONS)
    async with httpx.AsyncClient(
        transport=WebTransport(reach, limits=limits),
        timeout=timeout,
        trust_env=False,
        headers={"Accept-Encoding": "identity"},
    ) as client:
        yield client


async def fetch_whole(
    client: httpx.AsyncClient,
    url: str,
    blob: Multihash,
    *,
    max_bytes: int,
    crypto: Crypto,
    is_strangers: bool = True,
) -> bytes:
    """A blob in memory.

    Args:
        is_strangers: False: the URL is at a place from the settings.

    Raises:
        PortalLied: the bytes are not the blob's.
        PortalUnavailable: it does not answer, or breaks off.
        PortalRefused: it answers no, or is where strangers may not send us.
        BlobTooLarge: it sends more than `max_bytes`: the blob is longer, or the location lies.
    """
    data = bytearray()
    try:
        extensions = {} if is_strangers else named_by_user(url)
        async with client.stream("GET", url, extensions=extensions) as response:
            if response.status_code != 200:
                raise _refusal(url, response.status_code)
            async for piece in response.aiter_raw():
                if len(data) + len(piece) > max_bytes:
                    raise BlobTooLarge(max_bytes)
                data += piece
    except httpx.HTTPError as exc:
        raise PortalUnavailable(url, f"no whole answer ({exc or type(exc).__name__})") from exc
    except (httpx.InvalidURL, UnicodeError) as exc:  # UnicodeError: of idna
        raise PortalRefused(url, 0, f"no URL ({exc})") from exc
    except AddressRefused as exc:
        raise PortalRefused(url, 0, str(exc)) from exc
    if _digest(bytes(data), blob.type, crypto) != blob.digest:
        raise PortalLied(url, f"it sent {len(data)} bytes that are not blob {blob.digest.hex()}")
    return bytes(data)


async def gives(client: httpx.AsyncClient, url: str, *, is_strangers: bool) -> bool:
    """Whether a URL has something now.

    It is asked for what it has itself, or two nodes that each name the other would send a client
    to and fro.

    Args:
        is_strangers: False: the URL is at a place from the settings.
    """
    extensions = {} if is_strangers else named_by_user(url)
    headers = {"Cache-Control": "only-if-cached"}
    try:
        answer = await client.head(url, headers=headers, extensions=extensions)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, AddressRefused):
        return False
    return answer.status_code == 200 or answer.status_code in _NO_HEAD


def _refusal(url: str, status: int) -> PortalError:
    if status >= 500 or status in {408, 429}:
        return PortalUnavailable(url, f"it answers HTTP {status}")
    return PortalRefused(url, status, "it does not give the blob that its location promised")


def _digest(data: bytes, hash_type: HashType, crypto: Crypto) -> bytes:
    if hash_type is HashType.SHA256:
        return hashlib.sha256(data).digest()
    return crypto.blake3(data)
