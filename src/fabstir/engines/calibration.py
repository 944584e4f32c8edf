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
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import anyio

from fabstir.db.files import replace_private
from fabstir.engines._cgroups import cpu_quotas
from fabstir.engines._http import EngineAddress
from fabstir.engines._process import LlamaCppConfig, ThreadCounts, open_child

_logger = logging.getLogger(__name__)

_PROMPT = "Once upon a time there was a lighthouse keeper who counted ships. " * 4
_NUM_TOKENS: Final = 24
_NUM_RUNS: Final = 2
"""The better of two: the first also pays for touching the model's pages."""

_MANY_CORES: Final = 8
"""From here on memory is often busy before half of the cores are."""


def candidates(num_cores: int) -> list[ThreadCounts]:
    """All cores, and half of them (one per pair of hyperthreads); on large machines a quarter."""
    shares = {num_cores, num_cores // 2, num_cores // 4 if num_cores >= _MANY_CORES else 0}
    return [ThreadCounts(threads, num_cores) for threads in sorted(shares - {0}, reverse=True)]


def num_usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use, less where a quota of a cgroup is smaller.

    Args:
        root: of the file system that has /proc and /sys.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([cores or 1, *cpu_quotas(root)]))


async def choose_threads(
    config: LlamaCppConfig, on_progress: Callable[[str], None]
) -> tuple[ThreadCounts, str]:
    """The thread counts to use, and why, in words.

    Raises:
        EngineUnavailable: the engine does not start.
    """
    num_cores = num_usable_cores()
    if config.num_threads is not None:
        batch = config.num_batch_threads or num_cores
        return ThreadCounts(config.num_threads, batch), "set by the owner"
    if config.num_gpu_layers:
        return ThreadCounts(max(1, num_cores // 2), num_cores), "the GPU does the work"
    speeds = await _speeds(config, candidates(num_cores), on_progress)
    if not speeds:
        return ThreadCounts(
            max(1, num_cores // 2), num_cores
        ), "half of the cores: no time to measure"
    best = max(speeds, key=lambda name: speeds[name])
    decode, batch = (int(part) for part in best.split("/"))
    figures = ", ".join(f"{name}: {speed:.0f} tokens/s" for name, speed in speeds.items())
    _logger.info("engine threads chosen", extra={"threads": best, "measured": figures})
    return ThreadCounts(decode, config.num_batch_threads or batch), f"measured ({figures})"


async def _speeds(
    config: LlamaCppConfig, tried: list[ThreadCounts], on_progress: Callable[[str], None]
) -> dict[str, float]:
    file = config.cache_dir / f"engine-threads-{_machine_key(config, tried)}.json"
    known = _read(file)
    if known:
        return known
    measured = await _measure(config, tried, on_progress)
    if len(measured) == len(tried):
        with suppress(OSError):  # it is measured again then
            replace_private(file, json.dumps(measured).encode())
    return measured


async def _measure(
    config: LlamaCppConfig, tried: list[ThreadCounts], on_progress: Callable[[str], None]
) -> dict[str, float]:
    speeds: dict[str, float] = {}
    with anyio.move_on_after(config.calibration_timeout):
        for index, threads in enumerate(tried):
            on_progress(f"measuring thread counts, {index + 1} of {len(tried)}")
            async with open_child(config, threads) as child:
                runs = [await _tokens_per_second(child.address) for _ in range(_NUM_RUNS)]
            speeds[f"{threads.decode}/{threads.batch}"] = max(runs)
    return speeds


async def _tokens_per_second(address: EngineAddress) -> float:
    body = {"prompt": _PROMPT, "n_predict": _NUM_TOKENS, "ignore_eos": True, "cache_prompt": False}
    answer: Any = await address.post_json("/completion", body)
    return float(answer["timings"]["predicted_per_second"])


def _machine_key(config: LlamaCppConfig, tried: list[ThreadCounts]) -> str:
    binary = config.server_binary
    build = f"{binary} {binary.stat().st_mtime_ns}" if binary else version("xllamacpp")
    parts = (platform.node(), _processor(), repr(tried), config.model_digest, build)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")


def _read(file: Path) -> dict[str, float]:
    try:
        values: Any = json.loads(file.read_text())
        return {str(name): float(speed) for name, speed in values.items()}
    except (OSError, ValueError, AttributeError):
        return {}  # measured again
