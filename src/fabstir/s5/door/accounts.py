"""Accounts over HTTP, as S5 portals have them: register, log in, show usage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import NotFound, RemoteProtocolError
from fabstir.protocol.fields import Fields
from fabstir.s5.door.answers import json_response
from fabstir.s5.door.guard import COOKIE, bearer_of, caller_of, require_caller
from fabstir.s5.door.names import decode_base64url, encode_base64url
from fabstir.s5.door.registry import decode_field
from fabstir.s5.door.services import S5Services
from fabstir.s5.formats.account import ChallengeKind, ChallengeResponse
from fabstir.s5.formats.multikey import decode_multikey
from fabstir.s5.identities.accounts import MAX_LABEL_CHARS, Caller, Entered
from fabstir.web.bodies import read_json

COOKIE_SECONDS: Final = 30 * 24 * 3600

MAX_LISTED_PINS: Final = 1_000_000
"""Pins of one answer, the oldest first; the cursor in it says where the next one goes on. 33 MB."""

_HASH_BYTES: Final = 33
_BIN_33: Final = b"\xc4\x21"
"""MessagePack's head of 33 bytes."""

_PACKED_BYTES: Final = 2000 * _HASH_BYTES
"""Hashes of one piece of the answer."""

_MAX_KEY_CHARS: Final = 64
_BASE_PATH: Final = "/s5/account"
_NO_LIMIT: Final = 1 << 53
"""What the owner's tier says: more than any disk, and exact in JavaScript's numbers."""


class AccountDoors:
    """Everything below /s5/account."""

    def __init__(self, services: S5Services) -> None:
        self._services = services
        self._accounts = services.accounts

    def routes(self) -> list[Route]:
        return [
            Route(_BASE_PATH, self.account),
            Route(f"{_BASE_PATH}/stats", self.stats),
            Route(f"{_BASE_PATH}/pins.bin", self.pins),
            Route(f"{_BASE_PATH}/register", self.ask_to_register),
            Route(f"{_BASE_PATH}/register", self.register, methods=["POST"]),
            Route(f"{_BASE_PATH}/login", self.ask_to_login),
            Route(f"{_BASE_PATH}/login", self.login, methods=["POST"]),
            Route(f"{_BASE_PATH}/logout", self.logout, methods=["POST"]),
            Route(f"{_BASE_PATH}/register-host", self.ask_as_host, methods=["POST"]),
            Route(f"{_BASE_PATH}/register-host/complete", self.register_host, methods=["POST"]),
        ]

    async def ask_to_register(self, request: Request) -> Response:
        """A challenge for a key that has no account yet."""
        return self._challenge(request, ChallengeKind.REGISTER)

    async def ask_to_login(self, request: Request) -> Response:
        """A challenge for a key that has one."""
        return self._challenge(request, ChallengeKind.LOGIN)

    def _challenge(self, request: Request, kind: ChallengeKind) -> Response:
        public_key = _key(request.query_params.get("pubKey", ""))
        challenge = self._accounts.challenge(kind, public_key, is_invited=_is_invited(request))
        return json_response({"challenge": encode_base64url(challenge)})

    async def register(self, request: Request) -> Response:
        """The signed challenge: an account and a token."""
        answer = await self._answer(request)
        entered = await self._accounts.register(
            answer.public_key, answer.response, label=answer.label, is_invited=_is_invited(request)
        )
        return self._entered(entered)

    async def login(self, request: Request) -> Response:
        """The signed challenge: a token."""
        answer = await self._answer(request)
        entered = await self._accounts.login(answer.public_key, answer.response, label=answer.label)
        return self._entered(entered)

    async def ask_as_host(self, request: Request) -> Response:
        """A host's wallet vouches for a key: a challenge for the key."""
        if not self._accounts.takes_hosts:
            raise NotFound("this node does not register hosts by their wallet")
        fields = await self._fields(request)
        challenge = await self._accounts.challenge_host(
            _key(fields.text("pubKey", limit=_MAX_KEY_CHARS)),
            fields.text("ethAddress", limit=42),
            fields.hex("signature", size=65),
            fields.text("message", limit=256),
        )
        return json_response({"challenge": encode_base64url(challenge)})

    async def register_host(self, request: Request) -> Response:
        """The key's answer: an account and a token."""
        if not self._accounts.takes_hosts:
            raise NotFound("this node does not register hosts by their wallet")
        answer = await self._answer(request)
        entered = await self._accounts.register_host(
            answer.public_key, answer.response, label=answer.label
        )
        return self._entered(entered)

    async def logout(self, request: Request) -> Response:
        """Revoke the token that this request carries."""
        require_caller(request)
        token = bearer_of(request.headers) or request.cookies.get(COOKIE, "")
        await self._accounts.revoke(token)
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    async def account(self, request: Request) -> Response:
        """Who this is."""
        return json_response(await self._describe(require_caller(request)))

    async def stats(self, request: Request) -> Response:
        """Who this is, and how much is stored."""
        caller = require_caller(request)
        usage = await self._services.store.usage(caller.owner)
        reserved = await self._services.uploads.reserved_bytes(caller.owner)
        stats: Json = {
            "total": {
                "usedStorage": usage.num_bytes,
                "reservedStorage": reserved,
                "numPins": usage.num_blobs,
            }
        }
        return json_response({**await self._describe(caller), "stats": stats})

    async def _describe(self, caller: Caller) -> dict[str, Json]:
        limit = self._accounts.quota(caller)
        usage = await self._services.store.usage(caller.owner)
        account = caller.account
        return {
            "email": None,
            "emailConfirmed": False,
            "createdAt": 0 if account is None else account.created_at,
            "quotaExceeded": limit is not None and usage.num_bytes >= limit,
            "isRestricted": False,
            "isOwner": caller.is_owner,
            "label": "" if account is None else account.label,
            "ethAddress": None if account is None else account.eth_address,
            "tier": {
                "id": 4 if account is None else 1,
                "name": "owner" if account is None else "account",
                "uploadBandwidth": _NO_LIMIT,
                "storageLimit": _NO_LIMIT if limit is None else limit,
                "scopes": [],
            },
        }

    async def pins(self, request: Request) -> Response:
        """What the account keeps, as portals list it: MessagePack of 0, a cursor, an array of
        multihashes of 33 bytes. `?cursor=` gives what was pinned at that time or later."""
        caller = require_caller(request)
        after = _cursor(request.query_params.get("cursor", "0"))
        hashes = bytearray()
        newest = after
        num_pins = 0
        async for pin in self._services.store.pins(caller.owner):
            created_at = int(pin.created_at * 1000)
            if created_at < after:
                continue
            hashes += pin.blob.multihash.to_bytes()
            newest = max(newest, created_at)
            num_pins += 1
            if num_pins == MAX_LISTED_PINS:
                break

        async def body() -> AsyncIterator[bytes]:
            # Three forms of MessagePack: 0, an unsigned integer of 64 bits, an array's header.
            yield b"\0\xcf" + newest.to_bytes(8, "big") + b"\xdd" + num_pins.to_bytes(4, "big")
            for start in range(0, len(hashes), _PACKED_BYTES):
                part = bytes(hashes[start : start + _PACKED_BYTES])
                yield b"".join(
                    _BIN_33 + part[at : at + _HASH_BYTES] for at in range(0, len(part), _HASH_BYTES)
                )

        return StreamingResponse(
            body(), media_type="application/octet-stream", headers={"Cache-Control": "no-store"}
        )

    async def _fields(self, request: Request) -> Fields:
        return Fields.parse(await read_json(request, self._services.limits), "account")

    async def _answer(self, request: Request) -> _Answer:
        fields = await self._fields(request)
        response = ChallengeResponse(
            decode_field(fields, "response"), decode_field(fields, "signature")
        )
        return _Answer(
            _key(fields.text("pubKey", limit=_MAX_KEY_CHARS)),
            response,
            fields.optional_text("label", limit=MAX_LABEL_CHARS) or "",
        )

    def _entered(self, entered: Entered) -> Response:
        response = json_response({"authToken": entered.token})
        # Strict: no other site's page or link carries it here. Not readable by scripts.
        response.set_cookie(
            COOKIE,
            entered.token,
            max_age=COOKIE_SECONDS,
            path="/",
            httponly=True,
            samesite="strict",
            secure=self._services.is_secure,
        )
        return response


@dataclass(frozen=True, slots=True)
class _Answer:
    public_key: bytes
    response: ChallengeResponse
    label: str


def _is_invited(request: Request) -> bool:
    """Whether the node's owner vouches, with his token, for whom he registers."""
    caller = caller_of(request)
    return caller is not None and caller.is_owner


def _key(text: str) -> bytes:
    try:
        return decode_multikey(decode_base64url(text))
    except ValueError as error:
        raise RemoteProtocolError("pubKey must be base64url of ed and 32 bytes") from error


def _cursor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise RemoteProtocolError("the cursor is a number, as the answer before gave it")
    return int(text)
