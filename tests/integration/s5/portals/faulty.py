"""A portal that really stores, and misbehaves on demand."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from tests.integration.s5.portals.raw_http import Answer, Fault, Request, Server, open_server

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.encoding import decode_multibase
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.account import ChallengeKind, ChallengeResponse, verify_challenge
from fabstir.s5.formats.multikey import decode_multikey
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.portals.answers import encode_base64url, registry_json
from fabstir.s5.verified.tree import TreeBuilder

NO_CONTENT = Answer(204)


def json_answer(value: object, status: int = 200, **headers: str) -> Answer:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(
        status, json.dumps(value).encode(), (("Content-Type", "application/json"), *named)
    )


@dataclass(slots=True)
class TusState:
    blob: Multihash
    length: int
    received: bytearray = field(default_factory=bytearray)


@dataclass(slots=True, kw_only=True)
class FaultyPortal:
    """
    Attributes:
        is_open: whether strangers may upload.
        has_tus, takes_raw: what it offers.
        redirects: where /s5/blob/:cid leads, by the path; without one it is the download.
    """

    server: Server
    is_open: bool = True
    has_tus: bool = True
    takes_raw: bool = True
    has_ranges: bool = True
    has_outboards: bool = False
    blobs: dict[Multihash, bytes] = field(default_factory=dict[Multihash, bytes])
    pins: dict[str, set[Multihash]] = field(default_factory=dict[str, set[Multihash]])
    entries: dict[bytes, SignedEntry] = field(default_factory=dict[bytes, SignedEntry])
    uploads: dict[str, TusState] = field(default_factory=dict[str, TusState])
    accounts: dict[bytes, str] = field(default_factory=dict[bytes, str])
    tokens: dict[str, bytes] = field(default_factory=dict[str, bytes])
    challenges: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def requests(self) -> list[Request]:
        return self.server.requests

    def fail(self, line: str, *faults: Fault) -> None:
        """The next requests that begin with `line` ("GET /s5/download") fail so, in turn."""
        self.server.faults.setdefault(line, []).extend(faults)

    def add(self, data: bytes) -> BlobId:
        blob = BlobId(NATIVE.blake3(data), len(data))
        self.blobs[blob.multihash] = data
        return blob

    def pinned(self) -> set[Multihash]:
        return {blob for pinned in self.pins.values() for blob in pinned}

    async def handle(self, request: Request) -> Answer:
        for method, pattern, route in _ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match is not None and request.method in {method, "HEAD" if method == "GET" else ""}:
                try:
                    return route(self, request, match)
                except (RemoteProtocolError, ValueError, KeyError) as exc:
                    return Answer(400, str(exc).encode(), (("Content-Type", "text/plain"),))
        return Answer(404, b"no such route")

    def _owner(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token in self.tokens:
            return token
        return "" if self.is_open and not token else None

    def version(self, request: Request, match: re.Match[str]) -> Answer:
        return json_answer({"node": "faulty-1"})

    def nodes(self, request: Request, match: re.Match[str]) -> Answer:
        return json_answer({"nodes": [{"id": "z5node", "uris": ["ws://127.0.0.1:1/s5/p2p"]}]})

    def challenge(self, request: Request, match: re.Match[str]) -> Answer:
        key = decode_multikey(decode_multibase("u" + request.query["pubKey"]))
        self.challenges[key] = challenge = secrets.token_bytes(32)
        return json_answer({"challenge": encode_base64url(challenge)})

    def enter(self, request: Request, match: re.Match[str]) -> Answer:
        body = json.loads(request.body)
        key = decode_multikey(decode_multibase("u" + body["pubKey"]))
        answer = ChallengeResponse(
            decode_multibase("u" + body["response"]), decode_multibase("u" + body["signature"])
        )
        kind = ChallengeKind[match[1].upper()]
        authority = self.url.partition("//")[2]
        verify_challenge(key, answer, kind, self.challenges.pop(key), authority, NATIVE)
        is_known = key in self.accounts
        if is_known == (kind is ChallengeKind.REGISTER):
            return Answer(409 if is_known else 404, b"such an account is, or is not, there")
        token = secrets.token_urlsafe(24)
        self.tokens[token] = key
        self.accounts[key] = body["label"]
        return Answer(200, b"", (("Set-Cookie", f"s5-auth-token={token}; Path=/; HttpOnly"),))

    def account(self, request: Request, match: re.Match[str]) -> Answer:
        owner = self._owner(request)
        if not owner:
            return Answer(401, b"Invalid auth token")
        used = sum(len(self.blobs[blob]) for blob in self.pins.get(owner, set()))
        return json_answer(
            {
                "email": None,
                "createdAt": 1,
                "quotaExceeded": False,
                "isRestricted": False,
                "tier": {"id": 1, "name": "free", "storageLimit": 10_000_000_000},
                "stats": {"total": {"usedStorage": used}},
            }
        )

    def upload(self, request: Request, match: re.Match[str]) -> Answer:
        owner = self._owner(request)
        if owner is None:
            return Answer(401, b"Invalid auth token")
        data = request.body
        kind = request.headers.get("content-type", "")
        if kind.startswith("multipart/form-data"):
            edge = kind.partition("boundary=")[2].encode()
            data = data.split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--" + edge + b"--")[0]
        elif not self.takes_raw:
            return Answer(415, b"send a form")
        blob = self.add(data)
        self.pins.setdefault(owner, set()).add(blob.multihash)
        return json_answer({"cid": blob.encode("z")})

    def tus_options(self, request: Request, match: re.Match[str]) -> Answer:
        if not self.has_tus:
            return Answer(404)
        return Answer(204, b"", (("Tus-Version", "1.0.0"), ("Tus-Max-Size", "1099511627776")))

    def tus_create(self, request: Request, match: re.Match[str]) -> Answer:
        if not self.has_tus:
            return Answer(404)
        if self._owner(request) is None:
            return Answer(401, b"Invalid auth token")
        name, value = request.headers["upload-metadata"].split()
        assert name == "hash"
        blob = Multihash.from_bytes(decode_multibase("u" + base64.b64decode(value).decode()))
        if blob in self.blobs:
            return Answer(409, b"has already been uploaded")
        upload_id = secrets.token_hex(8)
        self.uploads[upload_id] = TusState(blob, int(request.headers["upload-length"]))
        location = f"{self.url}/s5/upload/tus/{upload_id}"
        return Answer(201, b"", (("Location", location), ("Tus-Resumable", "1.0.0")))

    def tus_head(self, request: Request, match: re.Match[str]) -> Answer:
        upload = self.uploads.get(match[1])
        if upload is None:
            return Answer(404)
        return Answer(
            200,
            b"",
            (
                ("Upload-Offset", str(len(upload.received))),
                ("Upload-Length", str(upload.length)),
            ),
        )

    def tus_patch(self, request: Request, match: re.Match[str]) -> Answer:
        upload = self.uploads.get(match[1])
        if upload is None:
            return Answer(404)
        if int(request.headers["upload-offset"]) != len(upload.received):
            return Answer(409, b"another offset")
        upload.received += request.body
        if len(upload.received) == upload.length:
            blob = self.add(bytes(upload.received))
            if blob.multihash != upload.blob:
                return Answer(500, b"Invalid hash found")
            owner = self._owner(request) or ""
            self.pins.setdefault(owner, set()).add(blob.multihash)
        return Answer(204, b"", (("Upload-Offset", str(len(upload.received))),))

    def download(self, request: Request, match: re.Match[str]) -> Answer:
        data = self.blobs.get(BlobId.decode(match[1]).multihash)
        if data is None:
            return Answer(404, b"no such blob")
        headers = (("Content-Type", "application/octet-stream"), ("ETag", f'"{match[1]}"'))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if wanted is None or not self.has_ranges:
            return Answer(200, data, headers)
        start, end = int(wanted[1]), int(wanted[2] or len(data) - 1) + 1
        if start >= len(data):
            return Answer(416, b"", (("Content-Range", f"bytes */{len(data)}"),))
        extent = f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}"
        return Answer(206, data[start:end], (*headers, ("Content-Range", extent)))

    def outboard(self, request: Request, match: re.Match[str]) -> Answer:
        data = self.blobs.get(BlobId.decode(match[1]).multihash)
        if data is None or not self.has_outboards:
            return Answer(404, b"no outboard")
        builder = TreeBuilder()
        builder.update(data)
        return Answer(200, builder.finish().encode())

    def pin(self, request: Request, match: re.Match[str]) -> Answer:
        owner, blob = self._owner(request), BlobId.decode(match[1]).multihash
        if not owner:
            return Answer(401, b"Invalid auth token")
        if blob not in self.blobs:
            return Answer(404, b"no such blob")
        self.pins.setdefault(owner, set()).add(blob)
        return Answer(200)

    def delete(self, request: Request, match: re.Match[str]) -> Answer:
        owner = self._owner(request)
        if not owner:
            return Answer(401, b"Invalid auth token")
        self.pins.setdefault(owner, set()).discard(BlobId.decode(match[1]).multihash)
        return Answer(200)

    def locations(self, request: Request, match: re.Match[str]) -> Answer:
        location = {
            "type": 5,
            "parts": [f"{self.url}/x"],
            "expiry": 9,
            "nodeId": "z5",
            "score": 0.5,
        }
        return json_answer({"locations": [location]})

    def registry_get(self, request: Request, match: re.Match[str]) -> Answer:
        key = decode_multikey(decode_multibase("u" + request.query["pk"]))
        entry = self.entries.get(key)
        return Answer(404) if entry is None else json_answer(registry_json(entry))

    def registry_set(self, request: Request, match: re.Match[str]) -> Answer:
        if self._owner(request) is None:
            return Answer(401, b"Invalid auth token")
        body = json.loads(request.body)
        raw = {name: decode_multibase("u" + body[name]) for name in ("pk", "data", "signature")}
        entry = SignedEntry(
            public_key=decode_multikey(raw["pk"]),
            revision=body["revision"],
            data=raw["data"],
            signature=raw["signature"],
        )
        entry.verify(NATIVE)
        if not entry.is_newer(self.entries.get(entry.public_key)):
            return Answer(500, b"Revision number too low")
        self.entries[entry.public_key] = entry
        return NO_CONTENT


_ROUTES = (
    ("GET", "/s5/version", FaultyPortal.version),
    ("GET", "/s5/p2p/nodes", FaultyPortal.nodes),
    ("GET", "/s5/account/(register|login)", FaultyPortal.challenge),
    ("POST", "/s5/account/(register|login)", FaultyPortal.enter),
    ("GET", "/s5/account(?:/stats)?", FaultyPortal.account),
    ("POST", "/s5/upload", FaultyPortal.upload),
    ("OPTIONS", "/s5/upload/tus", FaultyPortal.tus_options),
    ("POST", "/s5/upload/tus", FaultyPortal.tus_create),
    ("HEAD", "/s5/upload/tus/([0-9a-f]+)", FaultyPortal.tus_head),
    ("PATCH", "/s5/upload/tus/([0-9a-f]+)", FaultyPortal.tus_patch),
    ("GET", "/s5/download/([0-9A-Za-z]+)", FaultyPortal.download),
    ("GET", "/s5/blob/([0-9A-Za-z]+)", FaultyPortal.download),
    ("GET", r"/s5/blob/([0-9A-Za-z]+)\.obao", FaultyPortal.outboard),
    ("POST", "/s5/pin/([0-9A-Za-z]+)", FaultyPortal.pin),
    ("DELETE", "/s5/delete/([0-9A-Za-z]+)", FaultyPortal.delete),
    ("GET", "/s5/debug/storage_locations/(.+)", FaultyPortal.locations),
    ("GET", "/s5/registry", FaultyPortal.registry_get),
    ("POST", "/s5/registry", FaultyPortal.registry_set),
)


def with_header(answer: Answer, name: str, value: str) -> Answer:
    kept = tuple(pair for pair in answer.headers if pair[0].lower() != name.lower())
    return replace(answer, headers=(*kept, (name, value)))


@asynccontextmanager
async def open_faulty_portal() -> AsyncGenerator[FaultyPortal]:
    """A portal on a free loopback port for the length of the block."""
    portals: list[FaultyPortal] = []

    async def handle(request: Request) -> Answer:
        return await portals[0].handle(request)

    async with open_server(handle) as server:
        portals.append(FaultyPortal(server=server))
        yield portals[0]
