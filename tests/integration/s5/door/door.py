"""A node behind its doors: real store, real files, real HTTP."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from fabstir import __version__
from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.encoding import Json
from fabstir.s5.cache.outboards import Outboards
from fabstir.s5.cache.results import open_result_cache
from fabstir.s5.door import Limits, S5Services, create_s5_app
from fabstir.s5.formats.account import ChallengeKind, sign_challenge
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.wire import LocationType
from fabstir.s5.fs import FileSystem
from fabstir.s5.identities.accounts import IsHost, load_accounts
from fabstir.s5.identities.node_secrets import load_node_key, load_owner_token
from fabstir.s5.peers import Offer, open_peers
from fabstir.s5.ports import Blobs
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry, open_store
from fabstir.s5.transfer.resumable import open_resumable_uploads
from fabstir.web.inbound.server import bind, open_server
from fabstir.web.reach import Reach

ACCOUNT_BYTES = 4 << 20


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account of a door, and its client.

    Attributes:
        seed: of its key.
    """

    seed: bytes
    token: str
    http: httpx.AsyncClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """
    Attributes:
        http: a client without a token.
        owner: one with the owner's.
    """

    url: str
    services: S5Services
    folder: Path
    http: httpx.AsyncClient
    owner: httpx.AsyncClient
    clients: AsyncExitStack

    @property
    def store(self) -> BlobStore:
        return self.services.store

    @property
    def authority(self) -> str:
        return self.url.removeprefix("http://")

    def client(self, token: str | None = None, **headers: str) -> httpx.AsyncClient:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    async def enter(
        self,
        seed: bytes,
        kind: ChallengeKind = ChallengeKind.REGISTER,
        http: httpx.AsyncClient | None = None,
    ) -> httpx.Response:
        """Register or log in, as a portal's client does."""
        http = self.http if http is None else http
        path = f"/s5/account/{kind.name.lower()}"
        answer = await http.get(path, params={"pubKey": public_key(seed)})
        if answer.status_code != 200:
            return answer
        body = signed_answer(seed, kind, unb64(answer.json()["challenge"]), self.authority)
        answer = await http.post(path, json=body)
        http.cookies.clear()  # or this client would be somebody from now on
        return answer

    async def account(self) -> Account:
        """A new account, with its client."""
        seed = secrets.token_bytes(32)
        answer = await self.enter(seed)
        assert answer.status_code == 200, answer.text
        token = answer.json()["authToken"]
        client = await self.clients.enter_async_context(self.client(token))
        return Account(seed=seed, token=token, http=client)


def public_key(seed: bytes) -> str:
    return b64(encode_multikey(NATIVE.ed25519_public_key(seed)))


def signed_answer(
    seed: bytes, kind: ChallengeKind, challenge: bytes, authority: str
) -> dict[str, str]:
    signed = sign_challenge(seed, kind, challenge, authority, NATIVE)
    return {
        "pubKey": public_key(seed),
        "response": b64(signed.response),
        "signature": b64(signed.signature),
        "label": "test",
    }


def blob_of(data: bytes) -> BlobId:
    return BlobId(NATIVE.blake3(data), len(data))


def error_of(answer: httpx.Response) -> str:
    """The error's kind, after a check that it has the era's shape."""
    body = json.loads(answer.content)
    assert set(body) == {"error_type", "message", "request_id", "details"}
    assert body["message"]
    assert body["request_id"]
    return body["error_type"]


async def _healthy() -> Json:
    return {"status": "ok"}


@asynccontextmanager
async def open_door(
    folder: Path,
    *,
    limits: Limits | None = None,
    account_bytes: int = ACCOUNT_BYTES,
    is_open: bool = True,
    is_public: bool = False,
    is_host: IsHost | None = None,
    elsewhere: Blobs | None = None,
    port: int = 0,
    lifetime: int = 3600,
    num_max_bytes: int | None = None,
    public_url: str = "",
) -> AsyncGenerator[Door]:
    """Serve a node from a folder for the length of the block."""
    listener = bind("127.0.0.1", port, setting="s5.port")
    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    folder.mkdir(parents=True, exist_ok=True)
    seed = folder / "seed"
    if not seed.exists():
        seed.write_bytes(secrets.token_bytes(16))
    identity = Identity(seed.read_bytes(), NATIVE)
    token = load_owner_token(folder)
    node_seed = load_node_key(folder)
    async with AsyncExitStack() as stack:
        stack.enter_context(listener)
        store = await stack.enter_async_context(
            open_store(folder / "store", NATIVE, max_bytes=num_max_bytes)
        )
        registry = LocalRegistry(store, NATIVE)
        files = LocalBlobs(store, "files")
        accounts = await load_accounts(
            store,
            NATIVE,
            authorities=[f"127.0.0.1:{port}", f"localhost:{port}"],
            owner_token=token,
            is_open=is_open,
            account_bytes=account_bytes,
            is_host=is_host,
        )
        uploads = await stack.enter_async_context(
            open_resumable_uploads(store, folder / "uploads", lifetime=lifetime)
        )

        async def offer(blob: Multihash) -> Offer | None:
            if await store.size(blob) is None:
                return None
            name = BlobId(blob.digest, 0, blob.type).encode("z")
            return Offer(LocationType.FULL, (f"{url}/s5/blob/{name}",))

        peers = await stack.enter_async_context(
            open_peers(
                (),
                node_key=node_seed,
                crypto=NATIVE,
                offer=offer,
                entries=registry,
                reach=Reach(allow_private=True),
            )
        )
        results = await stack.enter_async_context(
            open_result_cache(
                store,
                owner="results",
                key=bytes(32),
                crypto=NATIVE,
                random=secrets.token_bytes,
                clock=time.time,
                max_bytes=1 << 26,
                default_ttl=3600.0,
            )
        )
        services = S5Services(
            store=store,
            blobs=files if elsewhere is None else elsewhere,
            registry=registry,
            own_registry=registry,
            files=FileSystem(
                files,
                registry,
                Capability.of_keys(identity.file_system_root(), writable=True),
                NATIVE,
            ),
            accounts=accounts,
            uploads=uploads,
            outboards=Outboards(store, results),
            find=peers.find,
            place=peers.place,
            offer=offer,
            serve_peer=peers.serve,
            node_id=NATIVE.ed25519_public_key(node_seed),
            p2p_uris=(f"ws://127.0.0.1:{port}/s5/p2p",),
            health=_healthy,
            version=__version__,
            authorities=frozenset({f"127.0.0.1:{port}", f"localhost:{port}"}),
            is_public=is_public,
            public_url=public_url,
            is_secure=False,
            crypto=NATIVE,
            limits=Limits(entry_burst=100_000) if limits is None else limits,
        )
        await stack.enter_async_context(
            open_server(create_s5_app(services), listener, max_frame_bytes=MAX_WIRE_BYTES)
        )
        clients = await stack.enter_async_context(AsyncExitStack())
        http = await clients.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False))
        owner = await clients.enter_async_context(
            httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {token}"},
                trust_env=False,
                timeout=30,
            )
        )
        yield Door(
            url=url, services=services, folder=folder, http=http, owner=owner, clients=clients
        )
