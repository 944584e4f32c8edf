"""One JSON-RPC endpoint: whatever it sends becomes a result of the right form or a ChainError.

Which refusals are tried again is decided by their codes. Providers count requests under many
codes and in many words; what the words say is for people.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import aiohttp
import anyio

from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import ChainError, RpcMalformed, RpcRefused, RpcUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

REQUEST_TIMEOUT_SECONDS = 10.0
"""For one attempt. Public endpoints answer within a second or not at all."""

RETRY_DELAYS_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""3.8 s in all: long enough for a node that restarts, short enough for a person who waits."""

MAX_RETRY_AFTER_SECONDS: Final = 5.0
"""The longest pause that an endpoint may ask for (Retry-After): somebody waits for the answer."""

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""The events of 2,000 blocks full of nothing else stay below it; an endless answer does not."""

_MAX_DEPTH: Final = 32
"""Brackets within brackets. The deepest answer that we ask for, a list of logs, has four."""

_MAX_REASON_CHARS: Final = 500
"""What a node says of itself; some repeat the whole request, a transaction's data included."""

_MIN_SECRET_CHARS: Final = 6
"""A shorter piece of a URL ("v3", "rpc") is no key, and would be cut out of other words."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TOO_MANY_REQUESTS = 429
_BUSY_STATUSES = frozenset({408, 425, _TOO_MANY_REQUESTS})
_SERVER_ERROR = 500

LIMIT_EXCEEDED: Final = -32005
"""EIP-1474: too many requests, and with eth_getLogs also too many results."""

_RATE_LIMITS = frozenset({_TOO_MANY_REQUESTS, LIMIT_EXCEEDED, -32007, -32016, -32029, -32090})
"""How Alchemy; Infura and EIP-1474; QuickNode; Base; Moralis; and Ankr count requests."""

_SERVER_SAYS_NO = -32000
"""Geth's code for all that went wrong, from a block that it does not have yet to a contract's
refusal: which of them, only the method tells."""

_FINAL_CODES = frozenset(
    {3, _SERVER_SAYS_NO, -32003, -32004, -32006, -32010, -32600, -32601, -32602, -32700}
)
"""Asked again, the answer is the same: reverted, refused (also Nethermind's -32010), no such
method or version, wrong parameters, no request. Every code that is not known is tried again."""

_PLAIN_READS = frozenset(
    {
        *("eth_blockNumber", "eth_chainId", "eth_getBalance", "eth_getBlockByNumber"),
        *("eth_getCode", "eth_getTransactionCount", "eth_getTransactionReceipt"),
    }
)
"""Nothing in their arguments can be refused: -32000 is the node's own trouble, such as a block
that only the node beside it has."""

_CHOOSY = "eth_getLogs"
"""Refused for too wide a range under every code there is: its caller asks for less."""


class RpcEndpoint:
    """Asks one URL. `session` belongs to the caller."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, retry_delays: Sequence[float]
    ) -> None:
        self._session = session
        self._url = url
        self._retry_delays = retry_delays
        self._secrets = _secrets(url)
        self.shown = _shown(url)
        """The URL as errors and logs show it: without path and password, which hold API keys."""

    async def ask(
        self,
        method: str,
        params: Sequence[Any],
        parse: Callable[[Any], T],
        *,
        is_idempotent: bool = True,
    ) -> T:
        """One JSON-RPC request.

        Args:
            parse: makes of the result what is wanted; raises ValueError if it cannot be it.
            is_idempotent: tried again when the connection fails. Sending a signed transaction is:
                its hash is the same each time.

        Raises:
            RpcUnavailable: no answer after all attempts.
            RpcRefused: the node answered with an error.
            RpcMalformed: it answered with something that is no such result.
        """
        failure: ChainError | None = None
        for delay in (*self._retry_delays, None) if is_idempotent else (None,):
            pause = 0.0
            try:
                return await self._ask_once(method, params, parse)
            except RpcRefused as exc:
                if not _is_transient(method, exc.code):
                    raise
                failure = self._unavailable(method, f"{exc.reason} (code {exc.code})")
                failure = failure if exc.code in _RATE_LIMITS else exc
            except RpcMalformed as exc:
                failure = exc
            except _Busy as exc:
                failure, pause = self._unavailable(method, str(exc)), exc.retry_after
            except (aiohttp.ClientError, OSError, ValueError) as exc:
                # TimeoutError is an OSError; ValueError: the answer is not JSON (a proxy's page).
                failure = self._unavailable(method, _public_reason(exc))
            if delay is not None:
                logger.info("retrying RPC", extra={"method": method, "reason": str(failure)})
                await anyio.sleep(max(delay, pause))
        assert failure is not None, "there is at least one attempt"
        raise failure

    def _unavailable(self, method: str, reason: str) -> RpcUnavailable:
        return RpcUnavailable(
            f"the chain's RPC at {self.shown} does not answer {method}: {self._told(reason)}. "
            "Check that it is running and that chain.rpc_url is right"
        )

    async def _ask_once(self, method: str, params: Sequence[Any], parse: Callable[[Any], T]) -> T:
        result = self._result(method, await self._exchange(method, params))
        try:
            return parse(result)
        except ValueError as exc:
            raise RpcMalformed(self.shown, method, self._told(str(exc))) from exc

    async def _exchange(self, method: str, params: Sequence[Any]) -> object:
        """The JSON of one answer. Raises _Busy, or what went wrong on the way, or ValueError."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        with anyio.fail_after(REQUEST_TIMEOUT_SECONDS):
            async with self._session.post(self._url, json=body, allow_redirects=False) as response:
                if response.status in _REDIRECTS:
                    raise OSError(f"it redirects (HTTP {response.status}), which is not followed")
                if response.status in _BUSY_STATUSES:
                    raise _Busy(response)
                text = await _read_bounded(response)
        try:
            answer = parse_json(text, max_depth=_MAX_DEPTH)
        except ValueError:
            if response.status >= 400:  # a page of the server's own
                raise _Busy(response) from None
            raise
        if response.status >= _SERVER_ERROR and not _error_of(answer):
            raise _Busy(response)
        return answer

    def _result(self, method: str, answer: object) -> Any:
        """The result in a JSON-RPC answer.

        Raises:
            RpcRefused: the answer is an error.
            ValueError: it is no JSON-RPC answer.
        """
        if details := _error_of(answer):
            data = _revert_data(details.get("data"))
            text = self._told(str(details.get("message")))
            raise RpcRefused(method, _code(details.get("code")), text, data, endpoint=self.shown)
        fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
        if fields.get("error") is not None or "result" not in fields:
            raise ValueError("what came back is not a JSON-RPC answer")
        return fields["result"]

    def _told(self, text: str) -> str:
        """What the endpoint said, without what of our URL it repeated, and not too much of it."""
        for secret in self._secrets:
            text = text.replace(secret, "...")
        return text if len(text) <= _MAX_REASON_CHARS else text[:_MAX_REASON_CHARS] + "..."


class _Busy(Exception):
    """The endpoint's server has no answer now; after `retry_after` seconds perhaps."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__(f"HTTP {response.status} {response.reason or ''}".rstrip())
        asked = response.headers.get("Retry-After", "")
        seconds = float(asked) if asked.isascii() and asked.isdigit() else 0.0
        self.retry_after = min(seconds, MAX_RETRY_AFTER_SECONDS)


def _is_transient(method: str, code: int) -> bool:
    if method == _CHOOSY:
        return code in _RATE_LIMITS and code != LIMIT_EXCEEDED
    if code == _SERVER_SAYS_NO:
        return method in _PLAIN_READS
    return code not in _FINAL_CODES


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    text = bytearray()
    async for piece in response.content.iter_any():
        text += piece
        if len(text) > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(text)


def _error_of(answer: object) -> dict[str, Any]:
    """The error object in an answer; empty if it has none."""
    error = cast("dict[str, Any]", answer).get("error") if isinstance(answer, dict) else None
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {}


def _code(value: object) -> int:
    """Some gateways send text; 0 is no code of anybody's."""
    if isinstance(value, str) and value.lstrip("-").isdecimal() and len(value) <= 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _revert_data(value: object) -> str:
    """Where the contract's reason is: in `data` itself, with some nodes one level deeper."""
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("data")
    return value if isinstance(value, str) else ""


def _public_reason(failure: Exception) -> str:
    """What went wrong, without the URL that aiohttp puts into some of its texts."""
    if isinstance(failure, aiohttp.ClientResponseError):
        return f"HTTP {failure.status} {failure.message}"
    if isinstance(failure, aiohttp.InvalidURL):
        return "that is not a URL"
    if isinstance(failure, UnicodeDecodeError):
        return "the answer is not UTF-8"
    return str(failure) or type(failure).__name__


def _shown(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the configured URL"
    if not parts.hostname:
        return "the configured URL"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    hidden = "/..." if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{host}{port}{hidden}"


def _secrets(url: str) -> tuple[str, ...]:
    """Every piece of the URL that may be a key, the longest first, as it stands and decoded."""
    try:
        parts = urlsplit(url)
        pieces = [*parts.path.split("/"), parts.path, parts.query, parts.fragment]
        pieces += [value for _, value in parse_qsl(parts.query)]
        pieces += [parts.username or "", parts.password or ""]
    except ValueError:
        pieces = [url]
    found = {text for piece in pieces for text in (piece, unquote(piece))}
    return tuple(sorted((t for t in found if len(t) >= _MIN_SECRET_CHARS), key=len, reverse=True))
