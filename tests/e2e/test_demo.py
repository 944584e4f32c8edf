"""`fabstir demo` is what everybody runs first."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

LEAVES_NOTHING = Path(__file__).parent.parent / "leaves_nothing.py"

DEMO_TIMEOUT = 240.0
"""Seconds: two hosts on a busy machine, both measuring their thread counts."""


async def test_the_demo_ends_well_its_money_adds_up_and_no_process_is_left(
    demo_model: Path,
) -> None:
    watched = [sys.executable, str(LEAVES_NOTHING)]
    command = [*watched, sys.executable, "-m", "fabstir", "demo"]

    with anyio.fail_after(DEMO_TIMEOUT):
        ended = await anyio.run_process(command, check=False)

    said = ended.stdout.decode()
    assert ended.returncode == 0, said + ended.stderr.decode()
    assert "receipt 1 verified" in said
    assert "every sum adds up" in said
    assert said.count("ended with status 0") == 2
