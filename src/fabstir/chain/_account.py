"""eth_account, without what it does to every JSON parser of the process.

py_ecc, below it, raises the interpreter's recursion limit to 100,000 when it is imported. Python's
own guard against nested brackets is that limit: with it, a few hundred kilobytes of them from any
peer end the process with a segmentation fault instead of a RecursionError.
"""

from __future__ import annotations

import sys

_limit = sys.getrecursionlimit()

from eth_account import Account  # noqa: E402 - between the two lines that undo its side effect

sys.setrecursionlimit(_limit)

__all__ = ["Account"]
