"""Importing the wallet's library leaves the interpreter as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

_CODE = """
import json, sys
limit = sys.getrecursionlimit()
import fabstir.chain
assert sys.getrecursionlimit() == limit, sys.getrecursionlimit()
try:
    json.loads("[" * 100_000)
except RecursionError:
    print("guarded")
"""


def test_nested_json_is_still_guarded_against() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, check=False
    )

    assert done.stdout == "guarded\n", done.stderr
