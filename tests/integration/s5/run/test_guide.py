"""docs/s5.md is true: its links lead to headings, its commands exist, its examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.s5.process import s5_process

pytestmark = [pytest.mark.integration]

ROOT = Path(__file__).resolve().parents[4]
DOCS = ROOT / "docs"
GUIDE = (DOCS / "s5.md").read_text(encoding="utf-8")
TIMEOUT = 120.0


def anchors(text: str) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def commands(text: str) -> str:
    """What a reader types of console examples, as a script."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    typed: list[str] = []
    for line in lines:
        if line.startswith("$ "):
            typed.append(line.removeprefix("$ "))
        elif line.startswith("    ") and typed:
            typed.append(line)
    return "\n".join(typed)


def section(number: int) -> str:
    """One numbered section of the guide."""
    return GUIDE.split(f"\n## {number}. ")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", ["s5.md", "s5-reference.md", "s5-formats.md"])
def test_links_to_headings_lead_somewhere(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")

    dead = [
        f"{file}#{anchor}"
        for file, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", text)
        if anchor not in anchors((DOCS / (file or name)).read_text(encoding="utf-8"))
    ]

    assert dead == []


def test_every_command_that_is_named_exists() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "fabstir", "s5", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    there = set(re.findall(r"^│ (\w+) ", answer.stdout, re.MULTILINE))
    named = set(re.findall(r"fabstir s5 (\w+)", GUIDE))

    assert len(there) > 15
    assert named - there == set()


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    config = tmp_path / "config.toml"
    config.touch()

    subprocess.run(
        [sys.executable, "-c", example],
        check=True,
        timeout=TIMEOUT,
        env=os.environ
        | {"FABSTIR_CONFIG": str(config), "FABSTIR_PATHS_DATA_DIR": str(tmp_path / "data")},
    )


@pytest.mark.needs("curl")
def test_the_curl_examples_run(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(bytes(range(256)) * 11_719)  # 3,000,064 bytes
    os.truncate(tmp_path / "big.bin", 3_000_000)

    with s5_process(tmp_path / "node") as node:
        setting = f"S5={node.url}\nTOKEN=$(cat {node.facts['s5_token_file']})\nset -euo pipefail\n"
        ran = subprocess.run(
            ["bash", "-c", setting + commands(section(3))],
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            cwd=tmp_path,
        )

    assert ran.returncode == 0, ran.stderr
    assert '"cid":"zhJTU1NTpxjHFDszKrH6Se5PdP4AYYPDXWGZLeBTwWcT2gxDxx"' in ran.stdout
    assert "helloell" in ran.stdout
    assert "upload-offset: 1000000" in ran.stdout
    assert "upload-cid: z" in ran.stdout.lower()
    assert '"success":true,"path":"home/hello.txt"' in ran.stdout
    assert '"error_type":"conflict"' in ran.stdout
    assert '"items":["one"]' in ran.stdout
    assert '"status":"healthy","issues":[]' in ran.stdout
