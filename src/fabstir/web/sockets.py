"""WebSockets that are dialled: to a checked address where a stranger named it, never redirected."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect

from fabstir.web.addresses import parse_strangers_url
from fabstir.web.racing import connect_first
from fabstir.web.reach import Reach

WEBSOCKET_SCHEMES = frozenset({"ws", "wss"})


class _Unredirected(connect):
    """Where a server redirects to, a stranger says; no node of ours redirects."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def connect_websocket(
    url: str, *, reach: Reach | None, open_timeout: float, **options: Any
) -> ClientConnection:
    """Open a WebSocket.

    Args:
        reach: what may be connected to; None: the user himself named the URL.
        open_timeout: seconds for everything until it is open.
        options: of `websockets.connect`.

    Raises:
        AddressRefused: it leads where strangers may not send us, or is no URL of theirs.
        OSError, TimeoutError, websockets.InvalidHandshake, InvalidURI: it cannot be opened.
    """
    with anyio.fail_after(open_timeout):
        if reach is None:
            return await _Unredirected(url, proxy=None, open_timeout=None, **options)
        checked = parse_strangers_url(url, WEBSOCKET_SCHEMES)
        addresses = await reach.addresses(checked.host, checked.port)
        sock = await connect_first(addresses, partial(_connect, port=checked.port), _close)
        # The socket is there; Host and the certificate's name are still the URL's.
        return await _Unredirected(
            str(checked), sock=sock, proxy=None, open_timeout=None, **options
        )


async def _close(sock: socket.socket) -> None:
    sock.close()


async def _connect(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        stack.pop_all()
        return sock
