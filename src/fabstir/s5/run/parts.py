"""The S5 node without a door: store, peers, portals, copies and the file system, in start order.

What `open_s5` adds doors to, and what a command opens for itself where no node runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.wire import LocationType
from fabstir.s5.fs import FileSystem
from fabstir.s5.identities.hidden import HiddenAccounts, HiddenDb
from fabstir.s5.identities.identity import load_or_create_identity
from fabstir.s5.identities.node_secrets import load_node_key
from fabstir.s5.peers import Offer, PeerLimits, Peers, open_peers
from fabstir.s5.peers.urls import node_id, parse_peer_url
from fabstir.s5.portals import (
    OnRequest,
    PortalPool,
    UploadQueue,
    expand,
    open_client,
    open_upload_queue,
    parse_origin,
)
from fabstir.s5.run.portal_accounts import PortalAccounts
from fabstir.s5.store import BlobStore, LocalRegistry, open_store
from fabstir.s5.tables.replicas import save_stored
from fabstir.s5.transfer.node import MergedRegistry, S5Node
from fabstir.s5.transfer.replication import OwnRegistry, Replication
from fabstir.s5.transfer.swarm import Swarm
from fabstir.web.reach import Reach

_logger = logging.getLogger(__name__)

FILES: Final = "files"
"""Owner of what the node's own file system keeps."""

HIDDEN: Final = "hidden"
"""Owner of what the identity's hidden DB keeps."""

FETCH_FOLDER: Final = "fetch"

_HTTP_SCHEMES = {"ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True, kw_only=True)
class S5:
    """An open node.

    Attributes:
        registry: for this node's own files, however full it is.
        open_registry: the same one for whoever comes, who may fill it up to the setting.
        pool: portals, and the portals of peers.
        uploads: copies on their way.
    """

    settings: Settings
    folder: Path
    identity: Identity
    store: BlobStore
    node_key: bytes
    """32 bytes of ed25519: what peers know this node by."""
    node: S5Node
    registry: MergedRegistry
    open_registry: MergedRegistry
    files: FileSystem
    peers: Peers
    pool: PortalPool
    swarm: Swarm
    uploads: UploadQueue
    replication: Replication
    offer: Callable[[Multihash], Awaitable[Offer | None]]
    accounts: PortalAccounts


def s5_folder(settings: Settings) -> Path:
    """Where the node of these settings keeps everything."""
    return settings.s5.folder or settings.paths.data_dir / "s5"


def s5_control_path(settings: Settings) -> Path:
    """Where the running node of these settings can be asked."""
    return s5_folder(settings) / "control.sock"


def usd_per_tb_month(settings: Settings) -> Mapping[str, Decimal]:
    """What portals charge, by URL."""
    prices = (text.rpartition("=") for text in settings.s5.portal_prices)
    return {parse_origin(url)[0]: Decimal(price) for url, _, price in prices}


@asynccontextmanager
async def open_s5_parts(
    settings: Settings,
    *,
    url: str | None = None,
    on_request: OnRequest | None = None,
    on_lost: Callable[[], None] = lambda: None,
) -> AsyncGenerator[S5]:
    """Open the node of these settings, for the length of the block.

    Args:
        url: how others reach this node's HTTP doors; None: it has none.
        on_request: told of every request to a portal.
        on_lost: called for every copy elsewhere that was there and is gone.

    Raises:
        ConfigError: another process has it open, or a URL is none.
        KeystoreError: the identity cannot be read.
    """
    folder, s5 = s5_folder(settings), settings.s5
    is_new = not s5.identity.exists()
    identity = load_or_create_identity(s5.identity, NATIVE)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        store = await enter(open_store(folder, NATIVE, max_bytes=s5.max_bytes))
        node_seed = load_node_key(folder)
        node_key = NATIVE.ed25519_public_key(node_seed)
        reach = Reach(allow_private=settings.network.allow_private)
        client = await enter(open_client(reach))
        accounts = PortalAccounts(
            folder, identity, client, on_request, hidden=lambda: hidden_accounts
        )
        portals = [await accounts.portal(place, folder / "tmp") for place in _places(settings)]
        pool = PortalPool(
            portals,
            NATIVE,
            usd_per_tb_month=usd_per_tb_month(settings),
            spool_folder=folder / "tmp",
        )
        local = LocalRegistry(store, NATIVE)
        open_local = LocalRegistry(store, NATIVE, max_entries=s5.max_registry_entries)
        offer = _offer_maker(store, url)
        peers = await enter(_open_peers(settings, node_seed, offer, open_local, url, reach))
        swarm = Swarm(peers, pool, client, folder / FETCH_FOLDER)
        node = S5Node(store, [swarm, *([pool] if portals else [])])
        registry, open_registry = (
            _merged(settings, each, peers, pool) for each in (local, open_local)
        )
        uploads = await enter(
            open_upload_queue(
                store,
                portals,
                on_stored=lambda c, blob, place: save_stored(c, blob, place, time.time()),
            )
        )
        replication = Replication(
            node,
            local,
            pool,
            uploads,
            NATIVE,
            num_copies=s5.replicas,
            seconds=s5.repair_seconds,
            enter=accounts.enter_if_needed,
            on_lost=on_lost,
        )
        root = Capability.of_keys(identity.file_system_root(), writable=True)
        if is_new:
            await replication.claim(root.cid.link)
        own = OwnRegistry(registry, local, replication, root.cid.link)
        files = FileSystem(node.blobs(FILES), own, root, NATIVE)
        hidden = HiddenDb(node.blobs(HIDDEN), own, identity.hidden_db_root(), NATIVE)
        hidden_accounts = HiddenAccounts(hidden)
        yield S5(
            settings=settings,
            folder=folder,
            identity=identity,
            store=store,
            node_key=node_key,
            node=node,
            registry=registry,
            open_registry=open_registry,
            files=files,
            peers=peers,
            pool=pool,
            swarm=swarm,
            uploads=uploads,
            replication=replication,
            offer=offer,
            accounts=accounts,
        )


def _open_peers(
    settings: Settings,
    node_seed: bytes,
    offer: Callable[[Multihash], Awaitable[Offer | None]],
    entries: LocalRegistry,
    url: str | None,
    reach: Reach,
) -> AbstractAsyncContextManager[Peers]:
    s5 = settings.s5
    own_uris = () if url is None else (p2p_uri(url, NATIVE.ed25519_public_key(node_seed)),)
    limits = PeerLimits(max_inbound=s5.max_peers, max_inbound_per_address=s5.max_peers_per_address)
    return open_peers(
        s5.peers,
        node_key=node_seed,
        crypto=NATIVE,
        offer=offer,
        entries=entries,
        own_uris=own_uris,
        reach=reach,
        limits=limits,
    )


def _merged(
    settings: Settings, local: LocalRegistry, peers: Peers, pool: PortalPool
) -> MergedRegistry:
    """What this disk has of the registry, with what peers and portals have."""
    others = [
        *([peers.registry] if settings.s5.peers else []),
        *([pool.registry] if pool.portals else []),
    ]
    # Whoever dialled in is asked too, but that a stranger knows nothing says nothing.
    hints = [] if settings.s5.peers else [peers.registry]
    return MergedRegistry(local, others, hints, broadcast=peers.broadcast)


def p2p_uri(url: str, node_key: bytes) -> str:
    """Where other nodes dial this one, with its id."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, f"{node_id(node_key)}@{parts.netloc}", "/s5/p2p", "", ""))


def _places(settings: Settings) -> list[str]:
    """URLs of portals, those of the peers too: a node of ours is a portal."""
    return list(expand([*settings.s5.portals, *map(_portal_of_peer, settings.s5.peers)]))


def _portal_of_peer(text: str) -> str:
    parts = urlsplit(parse_peer_url(text).url)
    return urlunsplit((_HTTP_SCHEMES[parts.scheme], parts.netloc, "", "", ""))


def _offer_maker(
    store: BlobStore, url: str | None
) -> Callable[[Multihash], Awaitable[Offer | None]]:
    """How this node gives what it has to peers: by its own HTTP door."""

    async def offer(blob: Multihash) -> Offer | None:
        size = None if url is None else await store.size(blob)
        if size is None:
            return None
        cid = BlobId(blob.digest, size, blob.type).encode("z")
        return Offer(LocationType.FULL, (f"{url}/s5/blob/{cid}",))

    return offer
