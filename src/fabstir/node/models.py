"""The models that this host serves: fetched, verified against the registry, loaded, priced."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from fabstir.chain.contracts import ModelRegistry
from fabstir.chain.keystore import read_secret_file
from fabstir.config import ModelSettings, Settings
from fabstir.engines import Engine, open_pool
from fabstir.engines.llamacpp import LlamaCppConfig, open_llamacpp
from fabstir.engines.memory import usable_memory
from fabstir.engines.openai import ServerProfile, UrlEngineConfig, open_url_engine
from fabstir.models import (
    FindSources,
    ModelSpec,
    ensure_verified,
    fetch_model,
)
from fabstir.models.facts import model_facts
from fabstir.models.files import FileIdentity, identity_of
from fabstir.models.fit import PlannedModel, require_fit
from fabstir.models.gguf import GgufHeader, read_gguf
from fabstir.models.holding import held
from fabstir.models.wanted import hub_access, model_spec, with_source
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ConfigError, ModelMissing
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ModelId
from fabstir.primitives.units import PricePerToken, Wei, price_from_million
from fabstir.s5.run.build import S5Running
from fabstir.s5.transfer.fetch import BlobSource
from fabstir.serving.models import ServedModel, ServedModels, model_name
from fabstir.web.reach import Reach

_LOG = logging.getLogger(__name__)

Progress = Callable[[str, str], None]
"""(what, how far): one line for people, whenever it changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOffer:
    """A model as the settings want it to be served.

    Attributes:
        where: what it is called in the settings: model, models[1].
    """

    where: str
    wanted: ModelSettings
    spec: ModelSpec

    @property
    def name(self) -> str:
        """repo:file."""
        return model_name(self.spec.repo, self.spec.file)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another server has it loaded."""
        return self.wanted.engine_url is not None

    @property
    def model_id(self) -> ModelId:
        """As the registry has it."""
        return ModelRegistry.model_id(self.spec.repo, self.spec.file)


def model_offers(settings: Settings) -> tuple[ModelOffer, ...]:
    """Every model that the settings name, at least one.

    Raises:
        ConfigError: two are of one name.
    """
    offers: dict[ModelId, ModelOffer] = {}
    for where, wanted in settings.served_models():
        offer = ModelOffer(where=where, wanted=wanted, spec=model_spec(wanted))
        if (other := offers.get(offer.model_id)) is not None:
            raise ConfigError(
                f"{other.where} and {where} are both {offer.name}: remove one of them, or correct "
                "its repo and file"
            )
        offers[offer.model_id] = offer
    return tuple(offers.values())


def model_prices(
    settings: Settings, usdc: Address
) -> dict[ModelId, Mapping[Address, PricePerToken]]:
    """What is asked for each model, by payment token: its own price, or the host's."""
    host = settings.host
    return {
        offer.model_id: host_prices(
            _first_set(offer.wanted.price_native_per_million, host.price_native_per_million),
            _first_set(offer.wanted.price_usdc_per_million, host.price_usdc_per_million),
            usdc,
        )
        for offer in model_offers(settings)
    }


def host_prices(native: Wei, usdc_amount: Wei, usdc: Address) -> Mapping[Address, PricePerToken]:
    """Prices of a million completion tokens, as the contracts count them."""
    return {NATIVE_TOKEN: price_from_million(native), usdc: price_from_million(usdc_amount)}


def _first_set(own: Wei | None, default: Wei) -> Wei:
    return default if own is None else own


def s5_places(s5: S5Running) -> FindSources:
    """Where this node knows a blob: in its own store, at peers, at portals."""

    async def find(blob: BlobId) -> Sequence[BlobSource]:
        places = await s5.parts.swarm.sources(blob)
        if await s5.parts.store.size(blob.multihash) is None:
            return places
        # By its own door, which serves it and its tree as any other node's.
        own = f"{s5.local_url}/s5/blob/{blob.encode('z')}"
        return [BlobSource.location(own, is_strangers=False), *places]

    return find


@asynccontextmanager
async def open_served_models(
    settings: Settings, registry: ModelRegistry, find: FindSources, on_progress: Progress
) -> AsyncGenerator[ServedModels]:
    """Check, fetch and load the models for the length of the block.

    Args:
        find: says where the blob of a model's `cid` is.

    Raises:
        ConfigError: two of one name, one that the registry does not approve, or more than fit
            into memory.
        ModelError: a file is missing, or its bytes are not the approved ones.
        EngineUnavailable: an engine does not load.
    """
    offers = {offer.name: offer for offer in model_offers(settings)}
    for offer in offers.values():
        await _check_approved(registry, offer)

    verified: dict[str, FileIdentity] = {}

    async def locate(name: str) -> Path:
        path = await _model_file(settings, offers[name], find, on_progress)
        verified[name] = identity_of(path)
        return path

    @asynccontextmanager
    async def open_engine(name: str, path: Path) -> AsyncGenerator[Engine]:
        shown = path.name if len(offers) > 1 else ""

        def say(text: str) -> None:
            on_progress("engine", f"{shown} {text}".strip())

        with held(path):
            if identity_of(path) != verified[name]:  # another model's download may take an hour
                raise ModelMissing(
                    f"{path} was changed since it was verified: start the host again, which "
                    "verifies it anew"
                )
            async with _open_engine(settings, offers[name], path, say) as engine:
                yield engine

    async def require_room(files: Mapping[str, Path]) -> None:
        own = {name: path for name, path in files.items() if not offers[name].is_elsewhere}
        await _require_room(offers, own, on_progress)

    async with open_pool(tuple(offers), locate, open_engine, require_room=require_room) as pool:
        yield ServedModels(
            [
                ServedModel(
                    model_id=offer.model_id,
                    repo=offer.spec.repo,
                    file=offer.spec.file,
                    digest=offer.spec.sha256,
                    pool=pool,
                )
                for offer in offers.values()
            ]
        )


async def _require_room(
    offers: Mapping[str, ModelOffer], files: Mapping[str, Path], on_progress: Progress
) -> None:
    """Show what every model needs of the memory, and refuse what cannot be loaded."""
    planned = {
        name: planned_model(offers[name], await to_thread.run_sync(read_gguf, path))
        for name, path in files.items()
    }
    usable = await to_thread.run_sync(usable_memory)
    for name, model in planned.items():
        on_progress("memory", f"{name} needs {model.need}")
        _LOG.info("memory that a model needs", extra={"model": name, "need": str(model.need)})
    require_fit(planned, usable)


def planned_model(offer: ModelOffer, header: GgufHeader) -> PlannedModel:
    """A model as the settings would have it loaded."""
    return PlannedModel(
        where=offer.where,
        facts=model_facts(header),
        max_model_len=offer.wanted.max_model_len,
        num_slots=offer.wanted.num_slots,
    )


def _open_engine(
    settings: Settings, offer: ModelOffer, path: Path, say: Callable[[str], None]
) -> AbstractAsyncContextManager[Engine]:
    """The engine that the settings name: one of this host's own, or one elsewhere."""
    url = offer.wanted.engine_url
    if url is None:
        return open_llamacpp(_llamacpp_config(settings, offer, path), on_progress=say)
    return open_url_engine(url_engine_config(settings, offer, path, url), on_progress=say)


def url_engine_config(
    settings: Settings, offer: ModelOffer, path: Path, url: str
) -> UrlEngineConfig:
    """How a model's server elsewhere is asked.

    Raises:
        ConfigError, KeystoreError: its key's file is missing, or others may read it.
    """
    wanted = offer.wanted
    is_asked = wanted.engine_profile == "auto"
    return UrlEngineConfig(
        where=offer.where,
        url=url,
        api_key=_engine_key(offer),
        profile=None if is_asked else ServerProfile(wanted.engine_profile),
        served_name=wanted.engine_model,
        model_path=path,
        max_model_len=wanted.max_model_len,
        num_slots=wanted.num_slots,
        start_timeout=settings.engine.start_timeout_seconds,
    )


def _engine_key(offer: ModelOffer) -> str:
    file = offer.wanted.engine_key_file
    if file is None:
        return ""
    if not file.exists():
        raise ConfigError(
            f"{offer.where}.engine_key_file is {file}, and there is no such file: write the "
            "server's key into it, with mode 0600"
        )
    return read_secret_file(file)


def _llamacpp_config(settings: Settings, offer: ModelOffer, path: Path) -> LlamaCppConfig:
    return LlamaCppConfig(
        model_path=path,
        max_model_len=offer.wanted.max_model_len,
        num_slots=offer.wanted.num_slots,
        cache_dir=settings.paths.cache_dir,
        model_digest=offer.spec.sha256,
        num_threads=settings.engine.num_threads,
        num_batch_threads=settings.engine.num_batch_threads,
        server_binary=settings.engine.server_binary,
        start_timeout=settings.engine.start_timeout_seconds,
    )


async def _check_approved(registry: ModelRegistry, offer: ModelOffer) -> None:
    spec = offer.spec
    approved = await registry.model(offer.model_id)
    if approved is None or not approved.is_active:
        raise ConfigError(
            f"the model registry {registry.address} does not approve {offer.name} "
            f"(id {offer.model_id}), which {offer.where} names: serve an approved model, or have "
            "this one added"
        )
    if approved.sha256 != spec.sha256:
        raise ConfigError(
            f"the registry approves {offer.name} with sha256 {approved.sha256}, the settings say "
            f"{spec.sha256}: correct {offer.where}.sha256"
        )


async def _model_file(
    settings: Settings, offer: ModelOffer, find: FindSources, on_progress: Progress
) -> Path:
    path = offer.wanted.path
    if path is not None:
        on_progress("model", f"verifying {path.name}")
        # What another server loads may be of another format, and its header is not ours to read.
        is_gguf = not offer.is_elsewhere or path.suffix == ".gguf"
        await ensure_verified(path, offer.spec.sha256, is_gguf=is_gguf)
        return path

    def fetched(done: int, total: int) -> None:
        share = f"{done * 100 // total} %" if total else f"{done} bytes"
        on_progress("model", f"fetching {offer.spec.file}: {share}")

    folder = settings.paths.cache_dir / "models"
    reach = Reach(allow_private=settings.network.allow_private)
    hub = hub_access(settings) if offer.wanted.hub is not None else None
    spec = with_source(offer.spec, offer.wanted, find, hub)
    return await fetch_model(spec, folder, on_progress=fetched, reach=reach)
