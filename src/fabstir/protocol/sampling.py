"""Sampling parameters: what the engine is asked for and what a receipt binds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SEED_LIMIT: Final = (1 << 32) - 1
"""Seeds lie below: llama.cpp reads 2^32 - 1 as "choose one"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. Fractions are integers in millionths, so that they hash exactly."""

    max_tokens: int
    temperature_millionths: int = 700_000
    top_p_millionths: int = 950_000
    min_p_millionths: int = 50_000
    repeat_penalty_millionths: int = 1_000_000
    top_k: int = 40
    seed: int
    """0 <= seed < SEED_LIMIT."""
    stop: tuple[str, ...] = ()
