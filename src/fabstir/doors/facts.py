"""What a host tells everybody about itself, and the challenge that shows its encryption key."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import ChainId
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.fields import Fields
from fabstir.web.bodies import BodyLimits, read_json

_BODY_LIMITS = BodyLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicFacts:
    """GET /health, /v1/health, /v1/version, /v1/models, /v1/chains; POST /v1/auth/challenge."""

    health: Callable[[], Awaitable[Json]]
    version: Json
    models: Callable[[], Json]
    chains: Json
    chain_id: ChainId
    encryption_secret: bytes = field(repr=False)
    crypto: Crypto

    def routes(self) -> list[Route]:
        return [
            Route("/health", self._health),
            Route("/v1/health", self._health),
            Route("/v1/version", self._version),
            Route("/v1/models", self._models),
            Route("/v1/chains", self._chains),
            Route("/v1/auth/challenge", self._challenge, methods=["POST"]),
        ]

    async def _health(self, _request: Request) -> Response:
        return JSONResponse(await self.health())

    async def _version(self, _request: Request) -> Response:
        return JSONResponse(self.version)

    async def _models(self, request: Request) -> Response:
        wanted = request.query_params.get("chain_id")
        if wanted is not None and wanted != str(self.chain_id):
            raise RemoteProtocolError(f"this host serves chain {self.chain_id}, not {wanted}")
        return JSONResponse(self.models())

    async def _chains(self, _request: Request) -> Response:
        return JSONResponse(self.chains)

    async def _challenge(self, request: Request) -> Response:
        """Prove possession of the encryption key, and let the caller recover its public half."""
        body = await read_json(request, _BODY_LIMITS)
        challenge = Fields.parse(body, "challenge").hex("challenge", size=32)
        digest = hashlib.sha256(challenge).digest()
        signature = self.crypto.sign(self.encryption_secret, digest)
        return JSONResponse({"signature": signature[:64].hex(), "recid": signature[64]})
