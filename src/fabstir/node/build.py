"""The host's composition root: everything is made here, from top to bottom in start order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
from starlette.routing import BaseRoute

from fabstir.chain.encryption_key import load_or_create_encryption_key
from fabstir.chain.identity import confirm_chain_identity
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.doors.app import create_app
from fabstir.doors.evidence import PublishedEvidence
from fabstir.doors.facts import PublicFacts
from fabstir.doors.strangers import Strangers
from fabstir.doors.websocket import WebSocketDoor
from fabstir.engines import EngineState
from fabstir.node.market import HostMarket, open_market
from fabstir.node.metrics import HostMetrics
from fabstir.node.models import Progress, model_prices, open_served_models, s5_places
from fabstir.node.public_facts import (
    chains_answer,
    health_answer,
    models_answer,
    version_answer,
)
from fabstir.node.reachability import P2PMetrics, Reachability
from fabstir.node.registration import Confirm, HostEntry
from fabstir.node.status import read_status, withdraw_all
from fabstir.node.work import HostWork, build_work
from fabstir.p2p import Advertiser, P2PConfig, P2PNode, open_advertiser, open_p2p
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import ChainReplaced
from fabstir.primitives.ids import Address
from fabstir.protocol.host_record import HostModel, HostRecord
from fabstir.protocol.limits import MAX_FRAME_BYTES
from fabstir.rails.rail import Rail
from fabstir.s5.ports import Blobs
from fabstir.s5.run.build import S5Running, open_s5
from fabstir.serving.models import ServedModel, ServedModels
from fabstir.telemetry import CheckResult, HealthChecks
from fabstir.telemetry.health import KEEP_SECONDS
from fabstir.telemetry.metrics import MetricsRegistry, open_metrics_server
from fabstir.telemetry.supervision import Supervision
from fabstir.web.control import Asked, Command, control_path, open_control
from fabstir.web.inbound.descriptors import host_limits
from fabstir.web.inbound.door_metrics import DoorMetrics
from fabstir.web.inbound.server import bind, open_server
from fabstir.web.reach import Reach

OWNER = "host"
"""Whose pins in the store the host's own blobs are: proofs and checkpoints."""

DRAIN_SECONDS = 60.0
"""Longest wait, on shutdown, for sessions that only wait for their dispute window; and, before it,
for the last proofs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host that is serving."""

    market: HostMarket
    models: ServedModels
    work: HostWork
    p2p: P2PNode
    advertiser: Advertiser
    reachability: Reachability
    s5: S5Running
    api_url: str
    metrics_port: int
    supervision: Supervision

    async def drain(self) -> None:
        """Take no new work, finish what runs, prove what was agreed to, settle what can be."""
        self.work.book.is_draining = True
        await self.work.door.drain()
        await self.work.rail.drain(DRAIN_SECONDS)


@asynccontextmanager
async def open_host(
    settings: Settings, *, confirm: Confirm, on_progress: Progress
) -> AsyncGenerator[Host]:
    """Serve for the length of the block. Leave it through `Host.drain`, or as after a crash.

    Args:
        confirm: asked once, before anything is staked.
        on_progress: told what start-up is doing, for people.

    Raises:
        FabstirError: whatever keeps the host from serving, with its fix.
    """
    encryption_secret = load_or_create_encryption_key(settings.host.encryption_key)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        host = settings.host
        listener = stack.enter_context(bind(host.listen, host.port, setting="host.port"))
        market = await enter(open_market(settings))
        registry, supervision = MetricsRegistry(), Supervision()
        doors = DoorMetrics.of(registry)
        connections = doors.connections("api", host_limits(host))
        s5 = await enter(_open_s5(settings, registry, doors, market))
        approved = market.contracts.models
        models = await enter(open_served_models(settings, approved, s5_places(s5), on_progress))
        p2p = await enter(open_p2p(_p2p_config(settings), NATIVE))
        reachability = Reachability(p2p, P2PMetrics.of(registry))
        metrics_port = await enter(open_metrics_server(registry, settings.metrics.port))
        blobs, files = s5.parts.node.blobs(OWNER), s5.parts.files
        work = await build_work(
            market,
            models,
            HostMetrics.of(registry),
            blobs,
            files,
            encryption_secret,
            Strangers(on_refused=doors.on_refused("api")),
        )
        health = _health(market, models, s5, supervision, reachability)
        routes = _routes(market, models, work, blobs, health, encryption_secret)
        app = create_app(routes, on_refused=doors.on_refused("api"))
        await enter(
            open_server(app, listener, max_frame_bytes=MAX_FRAME_BYTES, connections=connections)
        )
        port: int = listener.getsockname()[1]
        entry = _entry(market, models, p2p, encryption_secret, _api_url(settings, port))
        on_progress("registry", "checking this host's entry")
        await market.registrar.ensure(entry, confirm)
        make_record = _record_maker(market, entry, models, p2p)
        advertiser = await enter(open_advertiser(p2p, make_record, entry.models))
        await enter(_background(work.rail, supervision, reachability))
        serving = Host(
            market=market,
            models=models,
            work=work,
            p2p=p2p,
            advertiser=advertiser,
            reachability=reachability,
            s5=s5,
            api_url=entry.api_url,
            metrics_port=metrics_port,
            supervision=supervision,
        )
        await enter(open_control(control_path(settings.paths.data_dir), _commands(serving)))
        yield serving


def _routes(
    market: HostMarket,
    models: ServedModels,
    work: HostWork,
    blobs: Blobs,
    health: Callable[[], Awaitable[Json]],
    encryption_secret: bytes,
) -> list[BaseRoute]:
    """All doors of a host: one more is one more line."""
    chain = market.settings.chain
    facts = PublicFacts(
        health=health,
        version=version_answer(chain.chain_id),
        chains=chains_answer(chain, market.contracts.deployment),
        models=partial(models_answer, models, chain.chain_id),
        chain_id=chain.chain_id,
        encryption_secret=encryption_secret,
        crypto=NATIVE,
    )
    evidence = PublishedEvidence(checkpoint_index=work.checkpoint_index, blobs=blobs)
    return [*facts.routes(), *evidence.routes(), *WebSocketDoor(work.door).routes()]


@asynccontextmanager
async def _open_s5(
    settings: Settings, registry: MetricsRegistry, doors: DoorMetrics, market: HostMarket
) -> AsyncGenerator[S5Running]:
    """The S5 node; the registry on chain says who is a host."""

    async def is_host(address: Address) -> bool:
        node = await market.contracts.nodes.node(address)
        return node is not None and node.is_active

    async with open_s5(settings, registry, is_host=is_host, doors=doors) as s5:
        yield s5


def _commands(host: Host) -> dict[str, Command]:
    async def status(_asked: Asked) -> Json:
        complaints = host.advertiser.complaints()
        if (problem := await host.reachability.problem()) is not None:
            complaints = (*complaints, f"libp2p: {problem}")
        complaints = (*complaints, *map(_engine_complaint, _not_ready(host.models)))
        try:
            await confirm_chain_identity(host.market.chain, host.market.db)
        except ChainReplaced as error:
            complaints = (*complaints, str(error))
        complaints = (*complaints, *host.supervision.complaints())
        states = {model.name: str(model.state) for model in host.models}
        return (await read_status(host.market, running=complaints, models=states)).to_json()

    async def withdraw(_asked: Asked) -> Json:
        native, usdc = await withdraw_all(host.market)
        return {"native": native, "usdc": usdc}

    return {"status": status, "withdraw": withdraw}


@asynccontextmanager
async def _background(
    rail: Rail, supervision: Supervision, reachability: Reachability
) -> AsyncGenerator[None]:
    """What goes on beside serving, for the length of the block."""
    async with anyio.create_task_group() as tasks:
        for name, task in rail.background.items():
            tasks.start_soon(supervision.keep, name, task)
        tasks.start_soon(supervision.keep, "look at libp2p", reachability.run)
        yield
        tasks.cancel_scope.cancel()


def _not_ready(models: ServedModels) -> list[ServedModel]:
    return [model for model in models if model.state is not EngineState.READY]


def _engine_complaint(model: ServedModel) -> str:
    return f"the engine of {model.name} is {model.state}"


def _api_url(settings: Settings, port: int) -> str:
    if settings.host.api_url:
        return settings.host.api_url.rstrip("/")
    host = settings.host.listen
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _p2p_config(settings: Settings) -> P2PConfig:
    return P2PConfig(
        identity_path=settings.p2p.identity,
        listen_host=settings.p2p.listen,
        tcp_port=settings.p2p.port,
        ws_port=settings.p2p.ws_port,
        bootstrap=settings.p2p.bootstrap,
        announce=settings.p2p.announce,
        reach=Reach(allow_private=settings.network.allow_private),
    )


def _health(
    market: HostMarket,
    models: ServedModels,
    s5: S5Running,
    supervision: Supervision,
    reachability: Reachability,
) -> Callable[[], Awaitable[Json]]:
    async def chain() -> CheckResult:
        await confirm_chain_identity(market.chain, market.db)
        return CheckResult("ok")

    async def engine() -> CheckResult:
        away = _not_ready(models)
        if not away:
            return CheckResult("ok")
        status = "failing" if len(away) == len(tuple(models)) else "degraded"
        return CheckResult(status, "; ".join(map(_engine_complaint, away)))

    checks = HealthChecks(
        {
            "chain": chain,
            "engine": engine,
            "libp2p": reachability.check,
            "s5": s5.health.check,
            "tasks": supervision.check,
        },
        keep=KEEP_SECONDS,
    )

    async def health() -> Json:
        return health_answer(await checks.report())

    return health


def _entry(
    market: HostMarket, models: ServedModels, p2p: P2PNode, encryption_secret: bytes, api_url: str
) -> HostEntry:
    return HostEntry(
        api_url=api_url,
        prices=model_prices(market.settings, market.contracts.usdc.address),
        peer_id=p2p.peer_id,
        encryption_public_key=NATIVE.public_key(encryption_secret),
        location=market.settings.host.location,
        max_concurrent=sum(model.info.num_slots for model in models),
    )


def _record_maker(
    market: HostMarket, entry: HostEntry, models: ServedModels, p2p: P2PNode
) -> Callable[[int, int], bytes]:
    def make_record(sequence: int, expires_at: int) -> bytes:
        record = HostRecord(
            host=market.signer.address,
            peer_id=p2p.peer_id,
            addresses=tuple(address.partition("/p2p/")[0] for address in p2p.addresses),
            api_url=entry.api_url,
            models=tuple(
                HostModel(
                    model_id=model.model_id,
                    name=model.name,
                    max_model_len=model.info.max_model_len,
                    prices=tuple(entry.prices[model.model_id].items()),
                )
                for model in models
            ),
            chain_id=market.settings.chain.chain_id,
            registry=market.contracts.nodes.address,
            sequence=sequence,
            expires_at=expires_at,
        )
        return record.encode_signed(market.signer.secret_key, NATIVE)

    return make_record
