"""What a portal can do, found out by doing it once, with a small random blob and a random key."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio
import httpx

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import PortalRefused, PortalUnavailable, StorageError
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.portals.answers import encode_base64url, parse_challenge
from fabstir.s5.portals.http import PortalHttp, PortalPatience
from fabstir.s5.portals.portal import Portal
from fabstir.s5.portals.session import PortalSession
from fabstir.s5.portals.source import bytes_source
from fabstir.s5.portals.tus import TUS_PATH, TUS_VERSION, TusUpload
from fabstir.web.reach import STRANGERS

PROBE_PATIENCE: Final = PortalPatience(
    connect_timeout=5.0, stall_timeout=10.0, answer_timeout=15.0, max_failures=1
)

PROBE_SECONDS: Final = 90.0
"""For all checks together; what is left then is reported as not tested."""

BLOB_BYTES: Final = 1024
_NUM_LATENCIES = 5
_RANGE = (100, 200)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that portals can do.

    Attributes:
        ok: None: it was not tested.
        detail: what was found, or why not.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalReport:
    """What was found out about a portal.

    Attributes:
        seconds: the median round trip; None: it does not answer.
    """

    url: str
    checks: tuple[Check, ...]
    seconds: float | None

    def ok(self, name: str) -> bool:
        """Whether a check was made, and well."""
        return any(check.name == name and check.ok is True for check in self.checks)


async def probe(
    url: str,
    client: httpx.AsyncClient,
    crypto: Crypto,
    *,
    token: str | None = None,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    patience: PortalPatience = PROBE_PATIENCE,
    seconds: float = PROBE_SECONDS,
) -> PortalReport:
    """Try everything once. A portal that fails, lies or stalls is reported, never raised.

    What is stored for it (two blobs of 1 KiB) is unpinned afterwards where `token` allows; the
    registry entry is of a key that nobody keeps.

    Args:
        token: of an account; None: as a stranger.

    Raises:
        ConfigError: `url` is not `http(s)://host[:port]`.
    """
    http = PortalHttp(url, client, patience=patience)
    portal = Portal(http, crypto, PortalSession(http, crypto, token=token))
    task = _Probe(portal, crypto, random_bytes)
    with anyio.move_on_after(seconds):
        await task.run()
    return task.report()


class _Probe:
    def __init__(
        self, portal: Portal, crypto: Crypto, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._portal = portal
        self._http = portal.http
        self._crypto = crypto
        self._random_bytes = random_bytes
        self._data = random_bytes(BLOB_BYTES)
        self._blob: BlobId | None = None
        self._latencies: list[float] = []
        self._checks: dict[str, Check] = {}
        self._steps: dict[str, Callable[[], Awaitable[str]]] = {
            "reachable": self._reachable,
            "tls": self._tls,
            "version": self._version,
            "p2p": self._nodes,
            "register": self._register,
            "upload": self._upload,
            "download": self._download,
            "ranges": self._ranges,
            "tus": self._tus,
            "registry read": self._registry_read,
            "registry write": self._registry_write,
            "clean up": self._clean_up,
        }

    def report(self) -> PortalReport:
        checks = [
            self._checks.get(name, Check(name, None, "not tested: no time left, or no answer"))
            for name in self._steps
        ]
        seconds = statistics.median(self._latencies) if self._latencies else None
        return PortalReport(url=self._portal.url, checks=tuple(checks), seconds=seconds)

    async def run(self) -> None:
        for name, step in self._steps.items():
            try:
                self._checks[name] = Check(name, True, await step())
            except _Untested as exc:
                self._checks[name] = Check(name, None, str(exc))
            except StorageError as exc:
                self._checks[name] = self._failed(name, exc)
                if name == "reachable":
                    return

    def _failed(self, name: str, error: StorageError) -> Check:
        is_stranger = self._portal.session.token is None and name != "register"
        if is_stranger and isinstance(error, PortalRefused) and error.status in {401, 403}:
            # Nothing that the portal lacks: we have no account there to try it with.
            advice = f"needs an account: fabstir s5 login {self._http.url}"
            return Check(name, None, advice)
        return Check(name, False, str(error).removeprefix(f"{self._http.url}: "))

    async def _reachable(self) -> str:
        for _ in range(_NUM_LATENCIES + 1):
            start = anyio.current_time()
            try:
                await self._portal.version()
            except PortalUnavailable:
                raise
            except StorageError:
                pass  # it answers, if only with an error
            self._latencies.append(anyio.current_time() - start)
        del self._latencies[0]  # has the connection's own round trips in it
        return f"{statistics.median(self._latencies) * 1000:.0f} ms a round trip"

    async def _tls(self) -> str:
        url = httpx.URL(self._http.url)
        if url.scheme == "https":
            return "certificate valid"
        if await STRANGERS.is_private(url.host, url.port or 80):
            return "plain HTTP, but in a private network"
        raise StorageError("plain HTTP: whoever is on the way reads and changes everything")

    async def _version(self) -> str:
        return await self._portal.version()

    async def _nodes(self) -> str:
        uris = [uri for node in await self._portal.nodes() for uri in node.uris]
        if not uris:
            raise StorageError("it names no node that peers could dial")
        return ", ".join(uris)

    async def _register(self) -> str:
        key = self._crypto.ed25519_public_key(self._random_bytes(32))
        params = {"pubKey": encode_base64url(encode_multikey(key))}
        answer = await self._http.ask(
            "GET", "/s5/account/register", operation="probe", params=params
        )
        with self._http.believing():
            parse_challenge(answer.body)
        return "open to everybody"

    async def _upload(self) -> str:
        self._blob = await self._portal.upload(self._data)
        who = "the account" if self._portal.session.token else "everybody"
        return f"{BLOB_BYTES} bytes taken from {who}"

    async def _download(self) -> str:
        blob = self._uploaded()
        await self._portal.get(blob.multihash, max_bytes=BLOB_BYTES)
        return "the blob came back, and is the one that it took"

    async def _ranges(self) -> str:
        start, end = _RANGE
        part = await self._portal.unverified_range(self._uploaded(), start, end)
        if part != self._data[start:end]:
            raise StorageError("it sends other bytes than the range has")
        return "parts of blobs can be fetched, so downloads resume"

    async def _tus(self) -> str:
        options = await self._http.ask(
            "OPTIONS", TUS_PATH, operation="probe", accept=frozenset({200, 204})
        )
        most = options.headers.get("Tus-Max-Size", "")
        limit = f", at most {int(most)} bytes" if most.isascii() and most.isdigit() else ""
        if self._blob is None:
            if TUS_VERSION in options.headers.get("Tus-Version", ""):
                return f"offered{limit}; not tried without an account"
            raise _Untested("not offered to strangers")
        source = bytes_source(self._random_bytes(BLOB_BYTES), self._crypto)
        await TusUpload(self._http, self._portal.session.token, source).run()
        await self._portal.get(source.blob.multihash, max_bytes=BLOB_BYTES)
        if self._portal.session.token is not None:
            await self._unpin(source.blob)
        return f"resumable uploads work{limit}"

    async def _registry_read(self) -> str:
        key = self._crypto.ed25519_public_key(self._random_bytes(32))
        if await self._portal.get_entry(key) is not None:
            raise StorageError("it has an entry of a key that was made just now")
        return "it answers"

    async def _registry_write(self) -> str:
        entry = sign_entry(self._random_bytes(32), 1, self._random_bytes(33), self._crypto)
        await self._portal.set_entry(entry)
        if await self._portal.get_entry(entry.public_key) != entry:
            raise StorageError("it took an entry and does not give it back")
        return "an entry was taken and came back"

    async def _clean_up(self) -> str:
        await self._unpin(self._uploaded())
        return "the blob is unpinned"

    async def _unpin(self, blob: BlobId) -> None:
        if self._portal.session.token is None:
            raise _Untested("strangers cannot unpin; the portal forgets it some day")
        await self._portal.unpin(blob.multihash)

    def _uploaded(self) -> BlobId:
        if self._blob is None:
            raise _Untested("nothing could be uploaded")
        return self._blob


class _Untested(Exception):
    """Why a check cannot be made."""
