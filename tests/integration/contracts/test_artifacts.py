"""Artifacts, forge tests and documented gas, checked with the real compiler."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
HAS_FORGE = any(REPOSITORY.glob("node_modules/@foundry-rs/forge-*/bin/forge*"))
HAS_NODE = shutil.which("node") or (Path(sys.executable).parent / "node").exists()

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_NODE, reason="Node.js is not installed"),
    pytest.mark.skipif(not HAS_FORGE, reason="forge is not installed: run `npm ci`"),
]


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run contracts/build.py."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "contracts" / "build.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty at first: both tests below compile the same sources with the same settings, the first
    of them all, the second what is not compiled yet."""
    return tmp_path_factory.mktemp("compiled")


def test_artifacts_are_what_the_sources_compile_to(compiled: Path) -> None:
    result = build(f"--compiled={compiled}", "--check")

    assert result.returncode == 0, result.stdout + result.stderr


def test_forge_tests_pass() -> None:
    result = build("--test")

    assert result.returncode == 0, result.stdout + result.stderr
    assert ", 0 failed, 0 skipped" in result.stdout


def test_documented_gas_is_what_forge_reports(compiled: Path) -> None:
    text = (REPOSITORY / "docs" / "contracts.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)

    result = build(f"--compiled={compiled}", "--gas")

    assert result.returncode == 0, result.stdout + result.stderr
    measured = gas_by_function(result.stdout)
    assert len(rows) > 10
    for name, least, most in rows:
        assert measured[name] == (as_number(least), as_number(most)), name


def gas_by_function(output: str) -> dict[str, tuple[int, int]]:
    """The least and the most gas of each function in forge's report."""
    report = next(line for line in output.splitlines() if line.startswith('[{"contract"'))
    return {
        signature.split("(")[0]: (gas["min"], gas["max"])
        for contract in json.loads(report)
        for signature, gas in contract["functions"].items()
    }


def as_number(text: str) -> int:
    """Read `271,862`."""
    return int(text.replace(",", ""))
