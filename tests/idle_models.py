"""Models and engines in name only, for tests in which nothing is generated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from fabstir.engines import (
    EngineInfo,
    EnginePool,
    EngineState,
    GenerationEvent,
    GenerationRequest,
)
from fabstir.primitives.errors import EngineUnavailable
from fabstir.primitives.ids import Hash32, ModelId
from fabstir.protocol.capabilities import ModelCapability
from fabstir.serving.models import ServedModel, model_name


@dataclass(frozen=True)
class IdleEngine:
    """An engine that has not loaded its model."""

    model: str = "any.gguf"
    can: frozenset[ModelCapability] = frozenset()
    state: EngineState = EngineState.LOADING

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model=self.model,
            max_model_len=512,
            num_slots=1,
            build="",
            chat_template="",
            tuning="",
        )

    def capabilities(self) -> frozenset[ModelCapability]:
        return self.can

    def generate(
        self, request: GenerationRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[GenerationEvent, ...]]]:
        raise EngineUnavailable("nothing is loaded")


def idle_model(
    model_id: ModelId, file: str = "any.gguf", *, can: frozenset[ModelCapability] = frozenset()
) -> ServedModel:
    repo = "org/any"
    return ServedModel(
        model_id=model_id,
        repo=repo,
        file=file,
        digest=Hash32("0x" + "00" * 32),
        pool=EnginePool({model_name(repo, file): IdleEngine(file, can)}),
    )
