"""eth_account, without the pairing curves below it.

eth_keyfile imports py_ecc for the keystores of validators, which no wallet of ours is. That takes a
second, a fifth of a host's start, and raises the interpreter's recursion limit to 100,000. Python's
own guard against nested brackets is that limit: with it, a few hundred kilobytes of them from any
peer end the process with a segmentation fault instead of a RecursionError. So eth_keyfile finds the
two numbers that it takes from there in modules of ours, and no signature of validators.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

_CURVES: Final[dict[str, dict[str, object]]] = {
    "py_ecc": {},
    "py_ecc.bls": {"G2ProofOfPossession": None},
    "py_ecc.bls12_381": {
        "curve_order": 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
    },
    "py_ecc.secp256k1": {"N": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141},
}


@contextmanager
def _without_curves() -> Generator[None]:
    """Ours in the place of py_ecc's modules; whoever imports those later gets the real ones."""
    made: list[str] = []
    for name, values in _CURVES.items():
        if name not in sys.modules:
            module = ModuleType(name)
            vars(module).update(values)
            sys.modules[name] = module
            made.append(name)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


with _without_curves():
    from eth_account import Account

__all__ = ["Account"]
