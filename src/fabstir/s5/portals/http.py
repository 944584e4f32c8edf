"""An HTTP client for untrusted portals: everything is bounded, every failure is named.

No answer is decompressed, no cookie is kept, and no redirect is followed but where a blob is
fetched: so a portal can neither blow up an answer nor learn what another one said.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Literal, NoReturn

import anyio
import httpx

from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import (
    AccessDenied,
    AddressRefused,
    BlobTooLarge,
    Busy,
    ConfigError,
    NotFound,
    PathRefused,
    PortalError,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    RemoteProtocolError,
    WriteConflict,
)
from fabstir.protocol.fields import Fields
from fabstir.s5.formats.account import portal_authority
from fabstir.web.client import WebTransport, named_by_user
from fabstir.web.reach import STRANGERS, Reach

MAX_ANSWER_BYTES: Final = 256 * 1024
"""Longest JSON answer that is read: the largest honest one is a list of storage locations."""

MAX_REASON_CHARS: Final = 200
"""Most of a portal's own words in an error: they are shown and logged."""

_MAX_ERROR_BYTES = 4096
_MAX_ERROR_DEPTH = 8
_MAX_RETRY_AFTER = 3600.0
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
"""Statuses after which the same request may succeed; the last five are a well-known CDN's."""

_ADVICE = {
    401: "it knows no such token: log in again (fabstir s5 login URL)",
    402: "it wants to be paid first",
    403: "it forbids this to the account",
    405: "it does not offer this",
    404: "it does not know this",
    413: "it takes no blob of this size: choose another portal",
    507: "it has no room left: choose another portal",
}

CallOutcome = Literal["ok", "unavailable", "refused", "lied"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalRequest:
    """What one request came to, for metrics.

    Attributes:
        operation: "upload", "download", "registry_get" ...: a small closed set.
        seconds: from the first byte sent to the last one read.
        bytes_out, bytes_in: of the bodies.
    """

    portal: str
    operation: str
    outcome: CallOutcome
    seconds: float
    bytes_out: int
    bytes_in: int


OnRequest = Callable[[PortalRequest], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalPatience:
    """How long a portal is waited for.

    Attributes:
        connect_timeout: seconds to a connection.
        stall_timeout: seconds without a single byte, either way.
        answer_timeout: seconds for a whole small answer.
        min_bytes_per_second: below this a long body counts as stalled too, however steadily it
            drips: a portal could hold a download for days otherwise.
        max_failures: tries in a row that bring nothing new, in transfers that resume.
        first_delay, max_delay: seconds before the next try, doubling.
    """

    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    answer_timeout: float = 60.0
    min_bytes_per_second: int = 1024
    max_failures: int = 4
    first_delay: float = 0.25
    max_delay: float = 10.0

    def delay(self, failures: int) -> float:
        """Seconds before the next try, after so many that failed in a row."""
        return min(self.max_delay, self.first_delay * 2 ** min(failures, 30))

    def body_timeout(self, num_bytes: int) -> float:
        """Seconds in which a body of this length must have passed."""
        return self.answer_timeout + num_bytes / self.min_bytes_per_second


DEFAULT_PATIENCE: Final = PortalPatience()


@asynccontextmanager
async def open_client(
    reach: Reach = STRANGERS, *, max_connections: int = 64
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client for all portals.

    Args:
        reach: where it goes for those that are not in the settings, and where redirects lead.
        max_connections: all portals together; each answer uses one while it is read.
    """
    limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=20.0)
    client = httpx.AsyncClient(
        transport=WebTransport(reach, limits=limits, trust_env=True),
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        headers={"User-Agent": "fabstir"},
        timeout=None,  # noqa: S113 -- every request carries its own
    )
    async with client:
        yield client


@dataclass(frozen=True, slots=True)
class PortalAnswer:
    """A whole small answer.

    Attributes:
        headers: names in any case.
    """

    status: int
    headers: httpx.Headers
    body: bytes


class PortalHttp:
    """Requests to one origin."""

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        patience: PortalPatience = DEFAULT_PATIENCE,
        on_request: OnRequest | None = None,
        only_stored: bool = False,
        is_strangers: bool = False,
    ) -> None:
        """
        Args:
            url: `http(s)://host[:port]`.
            only_stored: have the portal answer with what is on its own disk (RFC 9111,
                only-if-cached): nodes ask each other so, lest two of them that take one another
                for portals ask in circles.
            is_strangers: somebody else named the URL: it is asked only where the client's `reach`
                allows it.

        Raises:
            ConfigError: it is not such a URL.
        """
        self.url, self.authority = parse_origin(url)
        self.patience = patience
        self._client = client
        self._extensions = {} if is_strangers else named_by_user(self.url)
        self._on_request = on_request
        self._headers = {"Accept-Encoding": "identity"}
        if only_stored:
            self._headers["Cache-Control"] = "only-if-cached"

    async def ask(
        self,
        method: str,
        path: str,
        *,
        operation: str,
        accept: frozenset[int] = frozenset({200}),
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        num_bytes: int = 0,
        max_bytes: int = MAX_ANSWER_BYTES,
        check: Callable[[PortalAnswer], None] | None = None,
    ) -> PortalAnswer:
        """Send one request and read its whole answer.

        A connection that turns out to be dead before anything was answered is replaced once, where
        the request can be sent again: servers close idle connections when they please.

        Args:
            accept: statuses that are answers; every other one is an error.
            content: the body; a stream needs `num_bytes`, its length.
            max_bytes: the longest answer that is read.
            check: raises for an answer that is an error by other rules than statuses.

        Raises:
            NotFound: status 404 where `accept` lacks it.
            PortalError: it does not answer, refuses, or sends what nobody asked for.
        """
        sent = {} if headers is None else dict(headers)
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if content is None or isinstance(content, bytes):
            can_repeat, num_sent = True, len(content or b"")
        else:
            can_repeat, num_sent = False, num_bytes
            sent["Content-Length"] = str(num_bytes)
        url = httpx.URL(self.url + path, params=params) if params else httpx.URL(self.url + path)
        with self.measured(operation, num_sent) as measure:
            for may_retry in (can_repeat, False):
                try:
                    async with self.exchange(method, url, sent, content, num_sent) as response:
                        body = await self._read_answer(response, method, accept, max_bytes)
                except _DeadConnection:
                    if not may_retry:
                        raise
                    continue
                measure.bytes_in = len(body)
                answer = PortalAnswer(response.status_code, response.headers, body)
                if check is not None:
                    check(answer)
                return answer
        raise AssertionError("the second try returns or raises")

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes] | None = None,
        num_bytes: int = 0,
    ) -> AsyncGenerator[httpx.Response]:
        """One request to any URL; the block reads the answer, whose status may be anything.

        Args:
            num_bytes: how much passes at most, both ways: it sets the deadline.

        Raises:
            PortalUnavailable: no answer, half an answer, or too slow a one.
            PortalLied: the answer is compressed, which was not asked for, or a redirect leads
                where strangers may not send us.
            PortalRefused: this URL itself does.
        """
        patience, has_begun = self.patience, False
        timeout = httpx.Timeout(patience.stall_timeout, connect=patience.connect_timeout)
        request_headers = self._headers | dict(headers)
        try:
            with anyio.fail_after(patience.body_timeout(num_bytes)):
                async with self._client.stream(
                    method,
                    url,
                    headers=request_headers,
                    content=content,
                    timeout=timeout,
                    extensions=self._extensions,
                ) as response:
                    has_begun = True
                    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                        raise PortalLied(self.url, "it compresses an answer that must not be")
                    yield response
        except (TimeoutError, httpx.TimeoutException) as exc:
            what = "no whole answer in time"
            raise PortalUnavailable(self.url, f"{what}: see whether it is overloaded") from exc
        except httpx.ConnectError as exc:
            raise PortalUnavailable(self.url, f"no connection ({shown(str(exc))})") from exc
        except AddressRefused as exc:
            if str(url).startswith(f"{self.url}/"):
                raise PortalRefused(self.url, 0, str(exc)) from exc
            raise PortalLied(self.url, f"it redirects to where it must not: {exc}") from exc
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise PortalLied(self.url, f"it sends to {shown(str(url))}, which is no URL") from exc
        except UnicodeError as exc:  # httpx reads a redirection's host: idna refuses http://xn--/
            if has_begun:
                raise
            raise PortalLied(self.url, f"it redirects to no URL ({shown(str(exc))})") from exc
        except httpx.HTTPError as exc:
            broken = PortalUnavailable if has_begun else _DeadConnection
            reason = shown(str(exc)) or type(exc).__name__
            raise broken(self.url, f"the connection broke off ({reason})") from exc

    @contextmanager
    def believing(self) -> Generator[None]:
        """Parse what was answered: a broken rule of its form raises PortalLied."""
        try:
            yield
        except RemoteProtocolError as exc:
            raise PortalLied(self.url, str(exc)) from exc

    def measured(self, operation: str, bytes_out: int = 0) -> Measure:
        """Report the block's outcome to `on_request` when it is left."""
        return Measure(self.url, operation, bytes_out, self._on_request)

    async def _read_answer(
        self, response: httpx.Response, method: str, accept: frozenset[int], max_bytes: int
    ) -> bytes:
        if response.status_code not in accept:
            await self.refuse(response)
        if method == "HEAD":
            return b""
        return await self.read_body(response, max_bytes)

    async def read_body(self, response: httpx.Response, max_bytes: int) -> bytes:
        """A whole body.

        Raises:
            PortalLied: it is longer than `max_bytes`.
        """
        body = bytearray()
        async for piece in response.aiter_raw():
            if len(body) + len(piece) > max_bytes:
                raise PortalLied(self.url, f"an answer is longer than {max_bytes} bytes")
            body += piece
        return bytes(body)

    async def refuse(self, response: httpx.Response) -> NoReturn:
        """Turn an answer that is none into its error. Always raises."""
        status = response.status_code
        words = await self._own_words(response)
        reason = _ADVICE.get(status, f"it answers {status}") + (f": {words}" if words else "")
        if status in _BUSY:
            wait = retry_after(response.headers.get("Retry-After", ""), time.time())
            raise PortalUnavailable(self.url, f"{reason} (HTTP {status})", retry_after=wait)
        if status == 404:
            raise NotFound(f"{self.url}: {reason}")
        if 300 <= status < 400:
            target = shown(response.headers.get("Location", ""))
            raise PortalRefused(self.url, status, f"it redirects to {target}: use that URL")
        raise PortalRefused(self.url, status, reason)

    async def _own_words(self, response: httpx.Response) -> str:
        """The beginning of an error's text; nothing of a web page."""
        if "html" in response.headers.get("Content-Type", "").lower():
            return ""
        words = bytearray()
        async for piece in response.aiter_raw():
            words += piece
            if len(words) >= _MAX_ERROR_BYTES:
                break
        return shown_words(bytes(words[:_MAX_ERROR_BYTES]))


class _DeadConnection(PortalUnavailable):
    """Nothing at all was answered: the request may be sent once more."""


class Measure:
    """Times one operation and says how it ended."""

    def __init__(
        self, portal: str, operation: str, bytes_out: int, on_request: OnRequest | None
    ) -> None:
        self.bytes_in = 0
        self.bytes_out = bytes_out
        self._portal = portal
        self._operation = operation
        self._on_request = on_request
        self._start = 0.0

    def __enter__(self) -> Measure:
        self._start = anyio.current_time()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        outcome = outcome_of(error)
        if self._on_request is None or outcome is None:
            return
        self._on_request(
            PortalRequest(
                portal=self._portal,
                operation=self._operation,
                outcome=outcome,
                seconds=anyio.current_time() - self._start,
                bytes_out=self.bytes_out,
                bytes_in=self.bytes_in,
            )
        )


def outcome_of(error: BaseException | None) -> CallOutcome | None:
    """What an error says about the portal; None: nothing, the fault is elsewhere."""
    if error is None or isinstance(error, NotFound | WriteConflict | BlobTooLarge):
        return "ok"
    if isinstance(error, PortalLied):
        return "lied"
    if isinstance(error, PortalRefused | AccessDenied | PathRefused | Busy):
        return "refused"
    return "unavailable" if isinstance(error, PortalError) else None


def parse_origin(url: str) -> tuple[str, str]:
    """The origin `scheme://host[:port]` of a portal, and its `host[:port]`.

    The second is what a challenge's answer names, with no port where it is the scheme's own, as
    JavaScript's `URL.host` has it.

    Raises:
        ConfigError: no such URL, or one with a user, a path or a query.
    """
    try:
        parts, authority = httpx.URL(url), portal_authority(url)
        _ = parts.host  # idna refuses some, such as xn--, and only when it is read
    except (httpx.InvalidURL, ValueError) as exc:
        raise ConfigError(f"{shown(url)!r} is not the URL of a portal: {exc}") from exc
    if parts.scheme not in {"http", "https"}:
        raise ConfigError(f"{shown(url)!r}: portals have URLs like https://s5.example")
    if parts.userinfo or parts.query or parts.path not in {"", "/"}:
        raise ConfigError("a portal's URL is https://host[:port] alone, with no path or password")
    return f"{parts.scheme}://{authority}", authority


def retry_after(value: str, now: float) -> float:
    """Seconds that a Retry-After header asks for (a number or a date), at most an hour."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), _MAX_RETRY_AFTER)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return min(max(0.0, moment - now), _MAX_RETRY_AFTER)


def shown_words(body: bytes) -> str:
    """What an error's body says to people: in JSON, its text alone."""
    try:
        fields = Fields.of(parse_json(body, max_depth=_MAX_ERROR_DEPTH), "an error")
        return shown(fields.text("message", "error"))
    except (ValueError, RemoteProtocolError):
        return shown(body.decode("utf-8", "replace"))


def shown(text: str) -> str:
    """What somebody else wrote, on one line and short."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_REASON_CHARS else line[:MAX_REASON_CHARS] + "..."
