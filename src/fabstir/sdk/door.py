"""A host's HTTP doors, as a renter tries them before it locks a deposit.

What answers there is a stranger: bodies are bounded before they are read, and nothing is believed
but what can be checked: that the door serves the model, and that whoever stands behind it holds the
key to which the handshake will be encrypted. Without that, somebody else's good door could be
registered with another key, and every deposit for it would be locked in vain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import httpx

from fabstir.primitives.errors import AddressRefused, PeerUnreachable, RemoteProtocolError
from fabstir.primitives.ids import ModelId
from fabstir.protocol.crypto import BadSignatureError, Crypto
from fabstir.protocol.fields import Fields
from fabstir.web.addresses import parse_strangers_url
from fabstir.web.client import WebTransport
from fabstir.web.reach import Reach

DOOR_TIMEOUT: Final = 5.0
"""Seconds for the three requests with which a door is tried."""

MAX_DOOR_BYTES: Final = 64 * 1024
"""Longest answer of a door that is read; ours have less than 1 kB for each model."""

MAX_DOOR_MODELS: Final = 256
"""Models of one door: more do not fit into what is read."""

MAX_CONNECTIONS: Final = 64
"""To doors at a time: two for each candidate that is examined, so that none has to
wait for those that hang."""


def open_hosts_client(reach: Reach) -> httpx.AsyncClient:
    """The client for URLs that hosts name. It follows no redirects."""
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS)
    return httpx.AsyncClient(transport=WebTransport(reach, limits=limits), trust_env=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorAnswer:
    """What a door said of itself: `max_model_len` tokens of context for the model."""

    max_model_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Tries the doors of hosts. `random` gives secure random bytes."""

    http: httpx.AsyncClient
    crypto: Crypto
    random: Callable[[int], bytes]

    async def answer_of(self, api_url: str, model_id: ModelId, public_key: bytes) -> DoorAnswer:
        """Ask a door for its health, its models, and a proof of its key.

        Raises:
            PeerUnreachable: it does not answer, or cannot serve the model now.
            RemoteProtocolError: it answers something else than a host.
        """
        try:
            url = str(parse_strangers_url(api_url)).rstrip("/")
            with anyio.fail_after(DOOR_TIMEOUT):
                await self._ask("GET", f"{url}/v1/health")
                models = await self._ask("GET", f"{url}/v1/models")
                await self._prove(f"{url}/v1/auth/challenge", public_key)
        except AddressRefused as exc:
            raise PeerUnreachable(f"its URL {api_url} is not fetched: {exc}") from exc
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as exc:
            reason = str(exc) or f"nothing came for {DOOR_TIMEOUT:g} s"
            raise PeerUnreachable(f"{api_url} does not answer: {reason}") from exc
        return DoorAnswer(max_model_len=_context_of(models, model_id))

    async def _prove(self, url: str, public_key: bytes) -> None:
        challenge = self.random(32)
        fields = await self._ask("POST", url, {"challenge": challenge.hex()})
        signature = fields.hex("signature", size=64) + bytes([fields.integer("recid", limit=2)])
        try:
            signer = self.crypto.recover(signature, hashlib.sha256(challenge).digest())
        except BadSignatureError as exc:
            raise RemoteProtocolError(f"{url} answers with no signature") from exc
        if signer != public_key:
            raise RemoteProtocolError(
                f"{url} does not hold the publicKey that the registry names: a session there could "
                "never be opened"
            )

    async def _ask(self, method: str, url: str, body: dict[str, str] | None = None) -> Fields:
        plain = {"accept-encoding": "identity"}  # a bomb would be unpacked before it is measured
        async with self.http.stream(method, url, json=body, headers=plain) as answer:
            data = b""
            async for piece in answer.aiter_raw():
                data += piece
                if len(data) > MAX_DOOR_BYTES:
                    raise RemoteProtocolError(f"{url} answers more than {MAX_DOOR_BYTES} bytes")
        if not answer.is_success:
            raise PeerUnreachable(f"{url} is not well: HTTP {answer.status_code}")
        return Fields.parse(data, url)


def _context_of(models: Fields, model_id: ModelId) -> int:
    """Raises PeerUnreachable: the door does not serve the model; RemoteProtocolError."""
    for model in models.children("models", limit=MAX_DOOR_MODELS):
        if model.text("id", limit=512).lower() == model_id:
            return model.integer("context_length", limit=1 << 32)
    raise PeerUnreachable(f"{models.where} does not list the model: it is not loaded now")
