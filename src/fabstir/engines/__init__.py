"""Language models, each in a process of its own."""

from fabstir.engines._process import LlamaCppConfig
from fabstir.engines.engine import (
    Engine,
    EngineInfo,
    EngineState,
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
)
from fabstir.engines.llamacpp import LlamaCppEngine, open_llamacpp

__all__ = [
    "Engine",
    "EngineInfo",
    "EngineState",
    "GenerationChunk",
    "GenerationEnd",
    "GenerationEvent",
    "GenerationRequest",
    "LlamaCppConfig",
    "LlamaCppEngine",
    "open_llamacpp",
]
