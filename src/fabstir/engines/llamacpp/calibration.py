"""Thread counts, measured instead of guessed: the wrong ones cost a factor of three.

Measured with one build on two cores: 39 tokens/s with two decode threads, 133 with one; with
another build it is the other way round. So a short generation is timed with each candidate at the
first start, and the result is kept per machine, model and build; until service disagrees with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import anyio

from fabstir.db.files import replace_private
from fabstir.engines._cgroups import cpu_quotas
from fabstir.engines._http import EngineAddress
from fabstir.engines.llamacpp.launcher import LlamaCppConfig, ThreadCounts, open_child

_logger = logging.getLogger(__name__)

_PROMPT = "Once upon a time there was a lighthouse keeper who counted ships. " * 4
_NUM_TOKENS: Final = 24
_NUM_RUNS: Final = 2
"""The better of two: the first also pays for touching the model's pages."""

_FACTOR: Final = 2
"""By which answers may differ from the measurement: two runs on a shared machine differ by half."""

_NUM_ANSWERS: Final = 32
"""Of which not one may reach the measured speed before it counts as wrong."""

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


class SpeedCheck:
    """Compares what single answers reach with what was measured: on a machine that was busy then,
    or is for good now, the measurement says nothing, and the next start makes a new one."""

    def __init__(self, measured: float, file: Path) -> None:
        """
        Args:
            measured: tokens a second.
            file: with the measurement.
        """
        self._measured = measured
        self._file = file
        self._best = 0.0
        self._num_seen = 0
        self._is_done = False

    def saw(self, num_tokens: int, seconds: float) -> None:
        """An answer was decoded, with no other beside it."""
        if num_tokens < _NUM_TOKENS or seconds <= 0 or self._is_done:
            return
        self._best = max(self._best, num_tokens / seconds)
        self._num_seen += 1
        is_slow = self._num_seen >= _NUM_ANSWERS and self._best * _FACTOR < self._measured
        if is_slow or self._best > self._measured * _FACTOR:
            self._forget()
        elif self._num_seen >= _NUM_ANSWERS:
            self._best, self._num_seen = 0.0, 0

    def _forget(self) -> None:
        self._is_done = True
        _logger.info(
            "answers are not as fast as was measured: the next start measures again",
            extra={"measured": round(self._measured), "seen": round(self._best)},
        )
        with suppress(OSError):  # nothing is worse than before
            self._file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """The thread counts to use, why, in words, and where they were measured, what that means for
    answers."""

    threads: ThreadCounts
    reason: str
    check: SpeedCheck | None = None


async def choose_threads(
    config: LlamaCppConfig, on_progress: Callable[[str], None]
) -> ThreadChoice:
    """Which thread counts to use.

    Raises:
        EngineUnavailable: the engine does not start.
    """
    num_cores = num_usable_cores()
    if config.num_threads is not None:
        batch = config.num_batch_threads or num_cores
        return ThreadChoice(ThreadCounts(config.num_threads, batch), "set by the owner")
    half = ThreadCounts(max(1, num_cores // 2), num_cores)
    if config.num_gpu_layers:
        return ThreadChoice(half, "the GPU does the work")
    tried = candidates(num_cores)
    file = config.cache_dir / f"engine-threads-{_machine_key(config, tried)}.json"
    speeds = _read(file)
    if not speeds:
        speeds = await _measure(config, tried, on_progress)
        if len(speeds) == len(tried):
            with suppress(OSError):  # it is measured again then
                replace_private(file, json.dumps(speeds).encode())
    if not speeds:
        return ThreadChoice(half, "half of the cores: no time to measure")
    best = max(speeds, key=lambda name: speeds[name])
    decode, batch = (int(part) for part in best.split("/"))
    figures = ", ".join(f"{name}: {speed:.0f} tokens/s" for name, speed in speeds.items())
    _logger.info("engine threads chosen", extra={"threads": best, "measured": figures})
    chosen = ThreadCounts(decode, config.num_batch_threads or batch)
    return ThreadChoice(chosen, f"measured ({figures})", SpeedCheck(speeds[best], file))


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


def known_forms(config: LlamaCppConfig) -> Path:
    """Where it is kept what answers of this build with this model are held to."""
    return config.cache_dir / f"engine-forms-{_key(config.model_digest, _build(config))}.json"


def _machine_key(config: LlamaCppConfig, tried: list[ThreadCounts]) -> str:
    machine = (platform.node(), _processor(), repr(tried))
    return _key(*machine, config.model_digest, _build(config))


def _build(config: LlamaCppConfig) -> str:
    binary = config.server_binary
    return f"{binary} {binary.stat().st_mtime_ns}" if binary else version("xllamacpp")


def _key(*parts: str) -> str:
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
