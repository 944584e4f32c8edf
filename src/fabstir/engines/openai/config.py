"""What an engine by URL is opened with."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from fabstir.engines.supervisor import RestartPolicy


class ServerProfile(StrEnum):
    """Whose API is spoken beyond OpenAI's. openai: nothing beyond it is known of the server."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_SERVER = "llama-server"
    OLLAMA = "ollama"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlEngineConfig:
    """Which server is to be asked, and for what. Times are in seconds.

    Attributes:
        where: what the model is called in the settings, for people: model, models[1].
        url: as far as before /v1; with it is fine too.
        profile: None: found by asking.
        served_name: of the model there; None: it has only one.
        model_path: the file that the server loads, whose digest was verified.
        num_slots: requests that it is asked at a time.
        start_timeout: how long it is waited for at the start.
        prefill_timeout: without a byte of an answer, after which it is given up.
        stall_timeout: likewise, once an answer has begun.
        restarts: how it is watched. It is never given up; the last delay is between two looks
            while it is away.
    """

    where: str
    url: str
    api_key: str = field(default="", repr=False)
    profile: ServerProfile | None = None
    served_name: str | None = None
    model_path: Path
    max_model_len: int
    num_slots: int
    start_timeout: float = 120.0
    prefill_timeout: float = 600.0
    stall_timeout: float = 60.0
    restarts: RestartPolicy = field(default_factory=lambda: RestartPolicy(delays=(1.0,)))
