"""The registry over HTTP: signed entries in, the newest out."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabstir.primitives.errors import NotFound, RemoteProtocolError
from fabstir.protocol.fields import Fields
from fabstir.s5.door.answers import json_response
from fabstir.s5.door.blobs import wants_only_here
from fabstir.s5.door.guard import require_caller
from fabstir.s5.door.names import decode_base64url, encode_base64url
from fabstir.s5.door.services import S5Services
from fabstir.s5.formats.limits import MAX_REVISION
from fabstir.s5.formats.multikey import decode_multikey, encode_multikey
from fabstir.s5.formats.registry import SignedEntry
from fabstir.web.bodies import read_json
from fabstir.web.rates import Rates

_MAX_CHARS: Final = 128
"""Longest field: a signature has 86 characters."""


class RegistryDoors:
    """GET and POST /s5/registry."""

    def __init__(self, services: S5Services) -> None:
        self._services = services
        limits = services.limits
        self._new_keys = Rates(
            limits.new_keys_per_second,
            limits.new_key_burst,
            num_keys=limits.num_addresses,
            what="new registry keys of this account",
        )

    def routes(self) -> list[Route]:
        return [
            Route("/s5/registry", self.read),
            Route("/s5/registry", self.write, methods=["POST"]),
        ]

    async def read(self, request: Request) -> Response:
        """The newest entry of a key."""
        public_key = _key(request.query_params.get("pk", ""))
        # A node that asks another for what it lacks is asked by nobody meanwhile, or two that know
        # each other would ask in circles.
        only_here = wants_only_here(request)
        registry = self._services.own_registry if only_here else self._services.registry
        entry = await registry.get(public_key)
        if entry is None:
            raise NotFound("there is no registry entry of this key")
        return json_response(
            {
                "pk": encode_base64url(encode_multikey(entry.public_key)),
                "revision": entry.revision,
                "data": encode_base64url(entry.data),
                "signature": encode_base64url(entry.signature),
            }
        )

    async def write(self, request: Request) -> Response:
        """Publish an entry; one that is not newer is a conflict (409)."""
        caller = require_caller(request)
        fields = Fields.parse(await read_json(request, self._services.limits), "entry")
        entry = SignedEntry(
            public_key=_key(fields.text("pk", limit=_MAX_CHARS)),
            revision=fields.integer("revision", limit=MAX_REVISION + 1),
            data=decode_field(fields, "data"),
            signature=decode_field(fields, "signature"),
        )
        entry.verify(self._services.crypto)
        if not caller.is_owner and await self._services.own_registry.get(entry.public_key) is None:
            self._new_keys.take(caller.owner)
        await self._services.registry.set(entry)
        return Response(status_code=204)


def decode_field(fields: Fields, name: str) -> bytes:
    """Bytes in base64url. Raises RemoteProtocolError."""
    try:
        return decode_base64url(fields.text(name, limit=_MAX_CHARS))
    except ValueError as error:
        raise RemoteProtocolError(f"{fields.where}: {name} must be base64url") from error


def _key(text: str) -> bytes:
    try:
        raw = decode_base64url(text)
    except ValueError as error:
        raise RemoteProtocolError("pk must be base64url of 33 bytes") from error
    return decode_multikey(raw)
