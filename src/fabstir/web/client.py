"""HTTP towards places that strangers name, beside those that the user named himself.

The two never share a connection: what a stranger names goes over a pool whose every connection was
opened to a checked address (`reach`). Where a redirect leads, somebody else says: so it is the
stranger's pool again unless it stays at the user's own origin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, cast

import anyio
import httpcore
import httpx

from fabstir.primitives.errors import AddressRefused
from fabstir.web.addresses import parse_strangers_url
from fabstir.web.certificates import trusted_certificates
from fabstir.web.proxies import EnvironmentProxies
from fabstir.web.racing import connect_first
from fabstir.web.reach import Reach

_OWN_ORIGIN: Final = "fabstir.own_origin"

_DEFAULT_PORTS = {"http": 80, "https": 443}


def named_by_user(url: str | httpx.URL) -> dict[str, Any]:
    """The `extensions` of a request to an origin from the settings: it may be anywhere."""
    return {_OWN_ORIGIN: _origin(httpx.URL(url))}


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that `reach` allows. TLS still asks for the name's certificate."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._inner = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        async def connect(address: str) -> httpcore.AsyncNetworkStream:
            return await self._inner.connect_tcp(address, port, None, local_address, options)

        options = None if socket_options is None else list(socket_options)
        try:
            with anyio.fail_after(timeout):
                addresses = await self._reach.addresses(host, port)
                return await connect_first(addresses, connect, _close)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"no connection in {timeout} s") from exc
        except OSError as exc:
            raise httpcore.ConnectError(str(exc)) from exc

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.UnsupportedProtocol("no stranger names a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


async def _close(stream: httpcore.AsyncNetworkStream) -> None:
    await stream.aclose()


def checked_transport(reach: Reach, *, limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
    """A transport whose every connection goes to a checked address."""
    made = httpx.AsyncHTTPTransport(verify=trusted_certificates(), limits=limits, trust_env=False)
    pool = made._pool  # pyright: ignore[reportPrivateUsage] - httpx hands no backend on
    assert hasattr(pool, "_network_backend"), "httpcore renamed its network backend"
    pool._network_backend = _CheckedBackend(reach)  # pyright: ignore[reportPrivateUsage] - the same
    return made


class WebTransport(httpx.AsyncBaseTransport):
    """Chooses the pool of each request.

    Args:
        trust_env: whether the environment's proxies are used. Who has one has it for all: a
            stranger's host is then checked as far as this machine can resolve it.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        limits: httpx.Limits,
        trust_env: bool = False,
    ) -> None:
        self._reach = reach
        certificates = trusted_certificates()
        self._users = httpx.AsyncHTTPTransport(verify=certificates, limits=limits, trust_env=False)
        self._strangers = checked_transport(reach, limits=limits)
        self._public = replace(reach, allow_private=False)
        self._queries = checked_transport(self._public, limits=limits)
        """For URLs with a query: a page of this machine that does something is called so."""
        self._proxies = (
            EnvironmentProxies(verify=certificates, limits=limits) if trust_env else None
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        is_users = request.extensions.get(_OWN_ORIGIN) == _origin(url)
        proxied = self._proxies.transport(url) if self._proxies else None
        if is_users:
            return await (proxied or self._users).handle_async_request(request)
        if url.userinfo:
            raise AddressRefused("a stranger's URL has a user or password in it")
        if proxied is not None:
            await self._check(url)
            return await proxied.handle_async_request(request)
        transport = self._queries if url.query else self._strangers
        return await transport.handle_async_request(request)

    async def _check(self, url: httpx.URL) -> None:
        """By the rules of the pools. The proxy resolves once more, so the host has to be one that
        it reads as we do.

        Raises:
            AddressRefused: it leads where strangers may not send us, or its host is malformed.
        """
        origin = parse_strangers_url(f"{url.scheme}://{url.netloc.decode('ascii')}")
        reach = self._public if url.query else self._reach
        try:
            await reach.addresses(origin.host, origin.port)
        except OSError:
            return  # only the proxy knows this name

    async def aclose(self) -> None:
        for transport in (self._users, self._strangers, self._queries):
            await transport.aclose()
        if self._proxies is not None:
            await self._proxies.aclose()
