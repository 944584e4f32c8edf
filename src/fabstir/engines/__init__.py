"""Language models, each in a process of its own; a package for each driver."""

from fabstir.engines.engine import (
    Capability,
    Engine,
    EngineInfo,
    EngineState,
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    needs_of,
)
from fabstir.engines.launcher import CannotStart, EngineProcess, Launcher
from fabstir.engines.pool import EnginePool, LocateModel, OpenEngine, open_pool
from fabstir.engines.supervisor import RestartPolicy, Supervisor

__all__ = [
    "CannotStart",
    "Capability",
    "Engine",
    "EngineInfo",
    "EnginePool",
    "EngineProcess",
    "EngineState",
    "GenerationChunk",
    "GenerationEnd",
    "GenerationEvent",
    "GenerationRequest",
    "Launcher",
    "LocateModel",
    "OpenEngine",
    "RestartPolicy",
    "Supervisor",
    "needs_of",
    "open_pool",
]
