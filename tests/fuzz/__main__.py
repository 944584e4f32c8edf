"""Fuzz every decoder: `python -m tests.fuzz [seconds] [--seed N] [--target NAME]`.

Exits non-zero at the first finding and saves its input, so that `--input FILE --target NAME` runs
it again. A finding is an error that the decoder does not promise, or an input that takes longer
than SLOW_SECONDS. A finding becomes a unit test, and a file of the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import traceback
from pathlib import Path
from random import Random

from tests.fuzz.mutation import mutate, read_corpus
from tests.fuzz.targets import TARGETS, Target

SLOW_SECONDS = 2.0
"""For inputs of at most 256 KiB; the slowest honest one takes a hundredth of it."""

_PURPOSE = "Feed every decoder with altered messages until one breaks its promise."

_ROUND = 100


class Finding(Exception):
    """An input that a target does not survive."""

    def __init__(self, target: str, data: bytes, reason: str) -> None:
        super().__init__(f"{target}: {reason}")
        self.target = target
        self.data = data


def try_input(name: str, target: Target, data: bytes) -> None:
    """Raises Finding."""
    start = time.perf_counter()
    try:
        target(data)
    except Exception as exc:
        raise Finding(name, data, traceback.format_exc()) from exc
    seconds = time.perf_counter() - start
    if seconds > SLOW_SECONDS:
        raise Finding(name, data, f"{seconds:.1f} s for {len(data)} bytes")


def fuzz_round(name: str, random: Random, num_inputs: int) -> None:
    """Try `num_inputs` mutations. Raises Finding."""
    corpus = read_corpus(name)
    for _ in range(num_inputs):
        try_input(name, TARGETS[name], mutate(corpus, random))


def main(arguments: list[str]) -> int:
    """Returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=_PURPOSE)
    parser.add_argument("seconds", nargs="?", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same inputs")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--input", type=Path, help="run one saved input instead")
    options = parser.parse_args(arguments)
    names: list[str] = options.target or list(TARGETS)
    try:
        if options.input:
            for name in names:
                try_input(name, TARGETS[name], options.input.read_bytes())
            return 0
        num_inputs = _run(names, options.seed, options.seconds)
    except Finding as finding:
        file = Path(f"finding-{finding.target}-{hashlib.sha256(finding.data).hexdigest()[:16]}.bin")
        file.write_bytes(finding.data)
        sys.stderr.write(f"{finding}\ninput saved: {file}\n")
        return 1
    sys.stdout.write(f"{num_inputs} inputs, {len(names)} targets, no finding\n")
    return 0


def _run(names: list[str], seed: int, seconds: float) -> int:
    streams = {name: Random(f"{seed}/{name}") for name in names}
    end = time.monotonic() + seconds
    num_inputs = 0
    while time.monotonic() < end:
        for name, random in streams.items():
            fuzz_round(name, random, _ROUND)
            num_inputs += _ROUND
    return num_inputs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
