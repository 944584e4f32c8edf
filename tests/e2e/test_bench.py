"""The benchmark runs: what it measures is nobody's test."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def test_the_benchmark_prints_its_table() -> None:
    """It was broken for weeks by a setting that its renter needed."""
    command = [sys.executable, "-m", "bench", "--streams", "1", "--rounds", "1", "--tokens", "8"]
    root = Path(__file__).parents[2]

    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].split(" | ")
    assert (row[0], len(row)) == ("1", 11)
