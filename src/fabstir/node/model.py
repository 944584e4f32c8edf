"""The model that this host serves: fetched, verified against the registry, loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fabstir.chain.contracts import ModelRegistry
from fabstir.config import Settings
from fabstir.engines import Engine
from fabstir.engines.llamacpp import LlamaCppConfig, open_llamacpp
from fabstir.models import (
    DEMO_MODEL,
    FindSources,
    HubSource,
    ModelSpec,
    S5Source,
    UrlSource,
    ensure_verified,
    fetch_model,
)
from fabstir.primitives.cid import BlobId
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import ChainId, Hash32, ModelId
from fabstir.s5.run.build import S5Running
from fabstir.s5.transfer.fetch import BlobSource
from fabstir.web.reach import Reach

Progress = Callable[[str, str], None]
"""(what, how far): one line for people, whenever it changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that answers.

    Attributes:
        digest: sha256 of the file's bytes, equal to the registry's.
    """

    model_id: ModelId
    spec: ModelSpec
    digest: Hash32
    engine: Engine

    def describe(self, chain_id: ChainId) -> Json:
        """What GET /v1/models answers."""
        model: dict[str, Json] = {
            "id": self.model_id,
            "name": f"{self.spec.repo}:{self.spec.file}",
            "description": self.spec.file,
            "context_length": self.engine.info.max_model_len,
            "sha256": self.digest,
        }
        return {"models": [model], "chain_id": chain_id}


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


def model_spec(settings: Settings) -> ModelSpec:
    """Which model the settings name; the demo model if they name none.

    Raises:
        ConfigError: only some of repo, file and sha256 are set.
    """
    wanted = settings.model
    named = (wanted.repo, wanted.file, wanted.sha256)
    if not any(named):
        return DEMO_MODEL
    if wanted.repo is None or wanted.file is None or wanted.sha256 is None:
        raise ConfigError("model.repo, model.file and model.sha256 come together: set all three")
    return ModelSpec(
        repo=wanted.repo,
        file=wanted.file,
        sha256=Hash32("0x" + wanted.sha256),
        size_bytes=None,
        source=None,
    )


def with_source(spec: ModelSpec, settings: Settings, find: FindSources) -> ModelSpec:
    """The model from where the settings say, else from where it comes anyway."""
    wanted = settings.model
    if wanted.cid is not None:
        return dataclasses.replace(spec, source=S5Source(blob=BlobId.decode(wanted.cid), find=find))
    if wanted.url is not None:
        return dataclasses.replace(spec, source=UrlSource(url=wanted.url))
    if wanted.hub is not None:
        hub = HubSource(endpoint=wanted.hub, revision=wanted.revision)
        return dataclasses.replace(spec, source=hub)
    return spec


@asynccontextmanager
async def open_served_model(
    settings: Settings, registry: ModelRegistry, find: FindSources, on_progress: Progress
) -> AsyncGenerator[ServedModel]:
    """Check, fetch and load the model for the length of the block.

    Args:
        find: says where the blob of `model.cid` is.

    Raises:
        ConfigError: the registry does not approve it.
        ModelError: the file is missing, or its bytes are not the approved ones.
        EngineUnavailable: it does not load.
    """
    spec = with_source(model_spec(settings), settings, find)
    model_id = registry.model_id(spec.repo, spec.file)
    await _check_approved(registry, model_id, spec)
    path = await _model_file(settings, spec, on_progress)
    config = LlamaCppConfig(
        model_path=path,
        max_model_len=settings.model.max_model_len,
        num_slots=settings.model.num_slots,
        cache_dir=settings.paths.cache_dir,
        model_digest=spec.sha256,
        num_threads=settings.engine.num_threads,
        num_batch_threads=settings.engine.num_batch_threads,
        server_binary=settings.engine.server_binary,
        start_timeout=settings.engine.start_timeout_seconds,
    )
    async with open_llamacpp(
        config, on_progress=lambda text: on_progress("engine", text)
    ) as engine:
        yield ServedModel(model_id=model_id, spec=spec, digest=spec.sha256, engine=engine)


async def _check_approved(registry: ModelRegistry, model_id: ModelId, spec: ModelSpec) -> None:
    approved = await registry.model(model_id)
    if approved is None or not approved.is_active:
        raise ConfigError(
            f"the model registry {registry.address} does not approve {spec.repo}:{spec.file} "
            f"(id {model_id}): serve an approved model, or have this one added"
        )
    if approved.sha256 != spec.sha256:
        raise ConfigError(
            f"the registry approves {spec.repo}:{spec.file} with sha256 {approved.sha256}, the "
            f"settings say {spec.sha256}: correct model.sha256"
        )


async def _model_file(settings: Settings, spec: ModelSpec, on_progress: Progress) -> Path:
    path = settings.model.path
    if path is not None:
        on_progress("model", f"verifying {path.name}")
        await ensure_verified(path, spec.sha256)
        return path

    def fetched(done: int, total: int) -> None:
        share = f"{done * 100 // total} %" if total else f"{done} bytes"
        on_progress("model", f"fetching {spec.file}: {share}")

    folder = settings.paths.cache_dir / "models"
    reach = Reach(allow_private=settings.network.allow_private)
    return await fetch_model(spec, folder, on_progress=fetched, reach=reach)
