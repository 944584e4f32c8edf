"""A running S5 node: its parts with doors on them, repairs, collections, a control socket."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio

from fabstir import __version__
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import StorageError
from fabstir.s5.cache.outboards import Outboards
from fabstir.s5.cache.results import ResultCache, open_result_cache
from fabstir.s5.door import Limits, S5Services, create_s5_app
from fabstir.s5.formats.account import portal_authority
from fabstir.s5.formats.derivation import Purpose, derive_str
from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.s5.identities.accounts import IsHost, load_accounts
from fabstir.s5.identities.node_secrets import OWNER_TOKEN_FILE, load_owner_token
from fabstir.s5.run.commands import S5Commands
from fabstir.s5.run.health import S5Health, keep_gauges
from fabstir.s5.run.metrics import MeasuredApp, S5Metrics
from fabstir.s5.run.parts import S5, open_s5_parts, p2p_uri, s5_control_path, s5_folder
from fabstir.s5.run.scrub import keep_scrubbed
from fabstir.s5.transfer.resumable import open_resumable_uploads
from fabstir.telemetry.metrics import MetricsRegistry
from fabstir.telemetry.supervision import Supervision
from fabstir.web.control import Asked, Command, open_control
from fabstir.web.inbound.descriptors import s5_limits
from fabstir.web.inbound.door_metrics import DoorMetrics
from fabstir.web.inbound.server import bind, open_server

_logger = logging.getLogger(__name__)

COLLECT_SECONDS = 3600.0
"""Between two collections of what nobody pins."""

UPLOADS_FOLDER = "uploads"

RESULTS_OWNER: Final = "results"
MAX_RESULT_BYTES: Final = 1 << 30
"""What is worth keeping and may be lost: so far the trees of large blobs, 256 bytes for a MiB."""

RESULT_SECONDS: Final = 30 * 86_400.0
"""How long a result is kept. It never gets wrong; what nobody asks for in a month goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S5Running:
    """A node that serves.

    Attributes:
        local_url: for programs on this machine.
        url: as others reach it.
        p2p_uri: with its id, for the setting `s5.peers` of others.
        token_file: what gives its owner every right.
    """

    parts: S5
    health: S5Health
    local_url: str
    url: str
    p2p_uri: str
    token_file: Path


@asynccontextmanager
async def open_s5(
    settings: Settings,
    metrics: MetricsRegistry,
    *,
    is_host: IsHost | None = None,
    doors: DoorMetrics | None = None,
) -> AsyncGenerator[S5Running]:
    """Run the S5 node of these settings for the length of the block.

    Args:
        is_host: asks the chain; None: hosts cannot register by their wallet.
        doors: of this process, where it has other doors; None: this is the only one.

    Raises:
        ConfigError: its port is taken, or another process has its folder.
        KeystoreError: the identity or the owner's token cannot be used.
    """
    s5, counted = settings.s5, S5Metrics.of(metrics)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        listener = stack.enter_context(bind(s5.listen, s5.port, setting="s5.port"))
        local_url = _local_url(listener)
        url = s5.url.rstrip("/") or local_url
        parts = await enter(
            open_s5_parts(
                settings,
                url=url,
                on_request=counted.watch_portal,
                on_lost=counted.replicas_lost.inc,
            )
        )
        supervision = Supervision()
        health = S5Health(parts, supervision)
        services = await _services(stack, parts, health, is_host, local_url, url)
        app = MeasuredApp(create_s5_app(services), counted)
        connections = (doors or DoorMetrics.of(metrics)).connections("s5", s5_limits(s5))
        await enter(
            open_server(app, listener, max_frame_bytes=MAX_WIRE_BYTES, connections=connections)
        )
        await enter(_background(parts, counted, supervision))
        running = S5Running(
            parts=parts,
            health=health,
            local_url=local_url,
            url=url,
            p2p_uri=p2p_uri(url, parts.node_key),
            token_file=parts.folder / OWNER_TOKEN_FILE,
        )
        await enter(open_control(s5_control_path(settings), _commands(running)))
        yield running


async def _services(
    stack: AsyncExitStack,
    parts: S5,
    health: S5Health,
    is_host: IsHost | None,
    local_url: str,
    url: str,
) -> S5Services:
    s5, store, folder = parts.settings.s5, parts.store, s5_folder(parts.settings)
    authorities = _authorities(local_url, url)
    accounts = await load_accounts(
        store,
        NATIVE,
        authorities=authorities,
        owner_token=load_owner_token(folder),
        is_open=s5.registration or not s5.public,
        account_bytes=s5.account_bytes,
        is_host=is_host,
    )
    return S5Services(
        store=store,
        blobs=parts.node.blobs("doors"),
        registry=parts.open_registry,
        own_registry=parts.registry.local,
        files=parts.files,
        accounts=accounts,
        uploads=await stack.enter_async_context(
            open_resumable_uploads(store, folder / UPLOADS_FOLDER)
        ),
        outboards=Outboards(store, await stack.enter_async_context(_results(parts))),
        find=parts.peers.find,
        place=parts.peers.place,
        offer=parts.offer,
        serve_peer=parts.peers.serve,
        node_id=parts.node_key,
        p2p_uris=(p2p_uri(url, parts.node_key),),
        health=health.report,
        version=f"fabstir/{__version__}",
        authorities=authorities,
        is_public=s5.public,
        public_url=s5.url.rstrip("/"),
        is_secure=url.startswith("https://"),
        crypto=NATIVE,
        limits=Limits(max_upload_bytes=s5.max_upload_bytes),
    )


def _results(parts: S5) -> AbstractAsyncContextManager[ResultCache]:
    return open_result_cache(
        parts.store,
        owner=RESULTS_OWNER,
        key=derive_str(parts.identity.seed(Purpose.EXTENSION), "results", NATIVE),
        crypto=NATIVE,
        random=secrets.token_bytes,
        clock=time.time,
        max_bytes=MAX_RESULT_BYTES,
        default_ttl=RESULT_SECONDS,
    )


def _commands(running: S5Running) -> dict[str, Command]:
    async def door(_asked: Asked) -> Json:
        return {"url": running.local_url}

    return {**S5Commands(running.parts, makes_copies=True).table(), "door": door}


@asynccontextmanager
async def _background(
    parts: S5, metrics: S5Metrics, supervision: Supervision
) -> AsyncGenerator[None]:
    """Repair copies, collect garbage, look for rot and keep the gauges right meanwhile."""
    async with anyio.create_task_group() as tasks:
        keep = supervision.keep
        tasks.start_soon(keep, "care for copies", parts.replication.run)
        tasks.start_soon(keep, "collection of garbage", partial(_collect, parts))
        tasks.start_soon(keep, "scrub", partial(keep_scrubbed, parts.store))
        tasks.start_soon(keep, "gauges", partial(keep_gauges, parts, metrics))
        yield
        tasks.cancel_scope.cancel()


async def _collect(parts: S5) -> None:
    while True:
        await anyio.sleep(COLLECT_SECONDS)
        try:
            collected = await parts.store.collect()
        except StorageError as error:
            _logger.warning("nothing was collected", extra={"reason": str(error)})
        else:
            if collected.num_blobs:
                _logger.info("collected", extra={"num_blobs": collected.num_blobs})


def _local_url(listener: socket.socket) -> str:
    """For this machine: loopback, also where every interface is listened on."""
    host: str = listener.getsockname()[0]
    port: int = listener.getsockname()[1]
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{loopback}]:{port}" if ":" in loopback else f"http://{loopback}:{port}"


def _authorities(local_url: str, url: str) -> frozenset[str]:
    """Every `host[:port]` that clients may have signed a challenge for."""
    port = urlsplit(local_url).port
    return frozenset({portal_authority(local_url), f"localhost:{port}", portal_authority(url)})
