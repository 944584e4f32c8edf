"""Checks every request before its route: who calls, how often, and from which page.

The rules:

- Whoever writes has a token: an account's, or the owner's. Blobs and registry entries are read
  without one. That holds on loopback too: any program of this machine, and any web page that a
  browser on it shows, can reach the port.
- A token comes as `Authorization: Bearer`, as `?auth_token=` or as the cookie s5-auth-token. A
  cookie is sent by the browser unasked, so it writes nothing unless the page is this node's own.
- A node that is not public answers to its own names only (a foreign page can give its own name
  this address: DNS rebinding), and lets pages of other machines do nothing but read.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from fabstir.primitives.errors import AccessDenied, FabstirError
from fabstir.s5.door.answers import error_response
from fabstir.s5.door.services import S5Services
from fabstir.s5.identities.accounts import Caller
from fabstir.web.addresses import address_group, is_loopback
from fabstir.web.errors import HttpRefusal
from fabstir.web.inbound.proving import prove
from fabstir.web.rates import Rates

COOKIE: Final = "s5-auth-token"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ACCOUNT_PATHS: Final = "/s5/account/"


def caller_of(request: HTTPConnection) -> Caller | None:
    """Who the guard found to be calling; None: anybody."""
    caller: Caller | None = request.scope["state"]["caller"]
    return caller


def require_caller(request: HTTPConnection) -> Caller:
    """Raises HttpRefusal (401): nobody that this node knows."""
    caller = caller_of(request)
    if caller is None:
        raise HttpRefusal(
            401,
            "unauthorized",
            "this needs a token: Authorization: Bearer or ?auth_token= (fabstir s5 login, or the "
            "owner's token in the node's folder); the cookie s5-auth-token writes only from this "
            "node's own pages",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return caller


def require_owner(request: HTTPConnection) -> Caller:
    """Raises HttpRefusal (401), AccessDenied: not this node's owner."""
    caller = require_caller(request)
    if not caller.is_owner:
        raise AccessDenied("only this node's owner may do this")
    return caller


def bearer_of(headers: Headers) -> str | None:
    """The token of an Authorization header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


class Guard:
    """ASGI middleware around all doors of the S5 node."""

    def __init__(self, app: ASGIApp, services: S5Services) -> None:
        self._app = app
        self._services = services
        limits = services.limits
        self._calls = Rates(
            limits.requests_per_second, limits.request_burst, num_keys=limits.num_addresses
        )
        self._entries = Rates(
            limits.entries_per_second, limits.entry_burst, num_keys=limits.num_addresses
        )
        self._own_hosts = {host_of(name) for name in services.authorities}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            return await self._app(scope, receive, send)
        connection = HTTPConnection(scope)
        try:
            self._check_place(connection)
            caller = await self._identify(connection)
            self._count(connection, caller)
        except FabstirError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
                return None
            return await error_response(error)(scope, receive, send)
        scope.setdefault("state", {})["caller"] = caller
        if caller is not None:
            prove(connection)
        return await self._app(scope, receive, send)

    def _check_place(self, connection: HTTPConnection) -> None:
        if self._services.is_public:
            return
        host = host_of(connection.headers.get("host", ""))
        if not self._is_near(host):
            raise HttpRefusal(421, "misdirected", f"this node is not {host[:80]}")
        origin = connection.headers.get("origin")
        if origin is None or self._is_near(origin_host(origin)):
            return
        is_read = connection.scope.get("method") in _SAFE_METHODS
        if not is_read or connection.scope["path"].startswith(_ACCOUNT_PATHS):
            raise AccessDenied(
                f"this node is not public: pages of {origin[:80]} may only read blobs and registry"
            )

    def _is_near(self, host: str) -> bool:
        return host in self._own_hosts or is_loopback(host)

    async def _identify(self, connection: HTTPConnection) -> Caller | None:
        token = bearer_of(connection.headers)
        if token is None:
            token = QueryParams(connection.scope["query_string"]).get("auth_token")
        if token is None:
            token = connection.cookies.get(COOKIE) if self._may_use_cookie(connection) else None
        return None if token is None else await self._services.accounts.identify(token)

    def _may_use_cookie(self, connection: HTTPConnection) -> bool:
        is_http = connection.scope["type"] == "http"
        if is_http and connection.scope["method"] in _SAFE_METHODS:
            return True
        # Browsers send Origin with every such request; what is no browser can send the header.
        origin = connection.headers.get("origin", "")
        return origin.partition("://")[2].lower() in self._services.authorities

    def _count(self, connection: HTTPConnection, caller: Caller | None) -> None:
        """What is known to be somebody's is limited by quotas, not by its address."""
        if caller is not None:
            return
        address = address_group(connection.client.host if connection.client else "")
        self._calls.take(address)
        if connection.scope["path"].startswith(_ACCOUNT_PATHS):
            self._entries.take(address)


def host_of(authority: str) -> str:
    """`host` of `host[:port]`, lower case, without the brackets of IPv6."""
    host, _, rest = authority.strip().lower().rpartition(":")
    if not host or rest.endswith("]"):
        host = authority.strip().lower()
    return host.removeprefix("[").removesuffix("]")


def origin_host(origin: str) -> str:
    """The host of an Origin header; "" for `null` and what is malformed."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""
