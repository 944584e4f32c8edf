"""Importing the wallet's library leaves the interpreter as it was, and takes no second."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from fabstir.chain._account import (
    _CURVES,  # pyright: ignore[reportPrivateUsage] - compared with the library's own numbers
)

pytestmark = pytest.mark.integration

_CODE = """
import json, sys
limit = sys.getrecursionlimit()
import fabstir.chain.keystore
assert sys.getrecursionlimit() == limit, sys.getrecursionlimit()
assert not [name for name in sys.modules if name.startswith("py_ecc")]
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


def test_the_curves_numbers_are_the_librarys() -> None:
    limit = sys.getrecursionlimit()
    try:
        theirs = {
            (name, key): getattr(importlib.import_module(name), key)
            for name in ("py_ecc.bls12_381", "py_ecc.secp256k1")
            for key in _CURVES[name]
        }
    finally:
        sys.setrecursionlimit(limit)

    assert theirs == {(name, key): _CURVES[name][key] for name, key in theirs}
