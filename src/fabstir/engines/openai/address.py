"""Where a server listens that somebody else runs, and what is said when it does not."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import anyio

from fabstir.engines._http import EngineAddress, EngineResponse
from fabstir.engines.openai.config import UrlEngineConfig
from fabstir.primitives.errors import ConfigError, EngineCrashed, EngineUnavailable
from fabstir.web.certificates import trusted_certificates

_PORTS = {"http": 80, "https": 443}


class RemoteResponse(EngineResponse):
    """One answer, given up when nothing comes, or when its server is known to be lost."""

    def __init__(
        self, interval: float, config: UrlEngineConfig, siblings: set[RemoteResponse]
    ) -> None:
        super().__init__(interval)
        self._config = config
        self._siblings = siblings
        self._has_begun = False
        self._why = (
            f"{config.url} closed the connection in the middle of an answer: the server crashed, "
            "was stopped or ran out of memory (its log says which; the kernel's log says whom it "
            "killed for memory): start it again; send the request again"
        )

    async def receive(self) -> bytes:
        """See `EngineResponse.receive`.

        Raises:
            EngineCrashed: also where nothing comes for too long.
        """
        config = self._config
        timeout = config.stall_timeout if self._has_begun else config.prefill_timeout
        try:
            with anyio.fail_after(timeout):
                data = await super().receive()
        except TimeoutError as error:
            what = "went on with" if self._has_begun else "began"
            raise EngineCrashed(
                f"{config.url} has not {what} an answer for {timeout:g} s, although its "
                "connection stands: the server hangs or has more requests than it can decode; "
                "look at its log and restart it, or lower num_slots"
            ) from error
        self._has_begun = True
        return data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._siblings.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._siblings.discard(self)

    def broken(self) -> EngineCrashed:
        """See `EngineResponse.broken`."""
        return EngineCrashed(self._why)

    def break_off(self, why: str) -> None:
        """Fail whoever reads, with this reason."""
        self._why = f"{why}; send the request again"
        self.abort()


@dataclass(frozen=True, slots=True)
class RemoteAddress(EngineAddress):
    """An `EngineAddress` on any machine. Its owner names it, so it may be in a private network."""

    config: UrlEngineConfig = field(kw_only=True)
    _open: set[RemoteResponse] = field(
        default_factory=set["RemoteResponse"], init=False, compare=False, repr=False
    )

    @classmethod
    def of(cls, config: UrlEngineConfig) -> RemoteAddress:
        """Read the URL.

        Raises:
            ConfigError: it is none.
        """
        try:
            parts = urlsplit(config.url)
            port, host = parts.port or _PORTS[parts.scheme], parts.hostname
        except (ValueError, KeyError) as error:
            raise _no_url(config) from error
        if not host or parts.query or parts.username or parts.password:
            raise _no_url(config)
        prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        tls: ssl.SSLContext | None = trusted_certificates() if parts.scheme == "https" else None
        return cls(host, port, config.api_key, tls, prefix, config=config)

    def open_response(self, interval: float) -> RemoteResponse:
        """See `EngineAddress.open_response`."""
        return RemoteResponse(interval, self.config, self._open)

    def unreachable(self, error: OSError) -> EngineUnavailable:
        """See `EngineAddress.unreachable`."""
        url, where = self.config.url, self.config.where
        if isinstance(error, ssl.SSLCertVerificationError):
            return EngineUnavailable(
                f"the certificate of {url} is not believed ({error.verify_message}): have the "
                "system trust the authority that signed it"
            )
        if isinstance(error, ssl.SSLError):
            return EngineUnavailable(
                f"{url} does not speak TLS ({error.strerror}): try http:// in {where}.engine_url"
            )
        if isinstance(error, TimeoutError):
            or_plain = ", or it speaks no TLS (try http://)" if self.tls else ""
            return EngineUnavailable(
                f"{url} accepts no connection in time: its machine is off, overloaded or behind a "
                f"firewall{or_plain}; look there, or correct {where}.engine_url"
            )
        return EngineUnavailable(
            f"nobody listens at {url} ({error.strerror or error}): start the server there, or "
            f"correct {where}.engine_url"
        )

    def break_off(self, why: str) -> None:
        """Fail all answers that are being read."""
        for response in tuple(self._open):
            response.break_off(why)


def _no_url(config: UrlEngineConfig) -> ConfigError:
    return ConfigError(
        f"{config.where}.engine_url is no URL such as http://127.0.0.1:8000, without a user, "
        f"password or query: correct it; a key goes into {config.where}.engine_key_file"
    )
