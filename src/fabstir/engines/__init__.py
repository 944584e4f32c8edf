"""Language models, each in a process of its own; a package for each driver."""

from fabstir.engines.engine import (
    Engine,
    EngineInfo,
    EngineState,
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
)
from fabstir.engines.launcher import CannotStart, EngineProcess, Launcher
from fabstir.engines.pool import EnginePool, LocateModel, OpenEngine, open_pool
from fabstir.engines.supervisor import RestartPolicy, Supervisor

__all__ = [
    "CannotStart",
    "Engine",
    "EngineInfo",
    "EnginePool",
    "EngineProcess",
    "EngineState",
    "GenerationChunk",
    "GenerationEnd",
    "GenerationEvent",
    "GenerationRequest",
    "GenerationStart",
    "Launcher",
    "LocateModel",
    "OpenEngine",
    "RestartPolicy",
    "Supervisor",
    "open_pool",
]
