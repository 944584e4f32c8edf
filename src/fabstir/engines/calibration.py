"""Thread counts, measured instead of guessed: the wrong ones cost a factor of three.

Measured with one build on two cores: 39 tokens/s with two decode threads, 133 with one; with
another build it is the other way round. So a short generation is timed with each candidate at the
first start, and the result is kept per machine, model and build.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fabstir.engines._http import EngineAddress
from fabstir.engines._process import LlamaCppConfig, ThreadCounts, open_child

_logger = logging.getLogger(__name__)

_PROMPT = "Once upon a time there was a lighthouse keeper who counted ships. " * 4
_NUM_TOKENS: Final = 24
_NUM_RUNS: Final = 2
"""The better of two: the first also pays for touching the model's pages."""


def _candidates() -> list[ThreadCounts]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    batch = cores or 1
    decode = sorted({batch, max(1, batch // 2)}, reverse=True)
    return [ThreadCounts(threads, batch) for threads in decode]


async def choose_threads(
    config: LlamaCppConfig, on_progress: Callable[[str], None]
) -> tuple[ThreadCounts, str]:
    """The thread counts to use, and why, in words."""
    if config.num_threads is not None:
        batch = config.num_batch_threads or config.num_threads
        return ThreadCounts(config.num_threads, batch), "set by the owner"
    file = config.cache_dir / f"engine-threads-{_machine_key(config)}.json"
    known = _read(file)
    if known is None:
        known = await _measure(config, on_progress)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(known))
        part.replace(file)
    best = max(known, key=lambda name: known[name])
    decode, batch = (int(part) for part in best.split("/"))
    figures = ", ".join(f"{name}: {speed:.0f} tokens/s" for name, speed in known.items())
    _logger.info("engine threads chosen", extra={"threads": best, "measured": figures})
    return ThreadCounts(decode, config.num_batch_threads or batch), f"measured ({figures})"


async def _measure(config: LlamaCppConfig, on_progress: Callable[[str], None]) -> dict[str, float]:
    candidates = _candidates()
    speeds: dict[str, float] = {}
    for index, threads in enumerate(candidates):
        on_progress(f"measuring thread counts, {index + 1} of {len(candidates)}")
        async with open_child(config, threads) as child:
            runs = [await _tokens_per_second(child.address) for _ in range(_NUM_RUNS)]
        speeds[f"{threads.decode}/{threads.batch}"] = max(runs)
    return speeds


async def _tokens_per_second(address: EngineAddress) -> float:
    body = {"prompt": _PROMPT, "n_predict": _NUM_TOKENS, "ignore_eos": True, "cache_prompt": False}
    started = time.monotonic()
    answer: Any = await address.post_json("/completion", body)
    return int(answer["tokens_predicted"]) / (time.monotonic() - started)


def _machine_key(config: LlamaCppConfig) -> str:
    binary = config.server_binary
    build = f"{binary} {binary.stat().st_mtime_ns}" if binary else version("xllamacpp")
    cores = os.cpu_count()
    parts = (platform.node(), _processor(), str(cores), config.model_digest, build)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")


def _read(file: Path) -> dict[str, float] | None:
    try:
        values: Any = json.loads(file.read_text())
        return {str(name): float(speed) for name, speed in values.items()} or None
    except (OSError, ValueError, AttributeError):
        return None  # measured again
