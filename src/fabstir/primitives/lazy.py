"""Names of a package that import their module when they are first used.

Who asks a running host how it is need not wait for the chain's libraries, nor a program that only
names a type for libp2p. `fabstir.sdk` shows the pattern: what type checkers read stands in
`if TYPE_CHECKING`, what runs in its `else`; `tests/unit/test_start.py` compares both.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        modules: the names that each module gives it; a module of the package without the package's
            name, one from elsewhere with all of its own.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = home if home.startswith("fabstir.") else f"{package}.{home}"
        found = getattr(importlib.import_module(module), name)
        setattr(sys.modules[package], name, found)  # found without this function from now on
        return found

    def names() -> list[str]:
        return sorted(homes)

    return get, names
