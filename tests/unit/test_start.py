"""What is not imported by a command that does not need it: told by names, not by the clock."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

HEAVY: Final = frozenset(
    {
        *("aiohttp", "alembic", "eth_abi", "eth_account", "httpx", "libp2p", "numpy", "pydantic"),
        *("sqlalchemy", "starlette", "trio", "uvicorn", "websockets", "xllamacpp"),
    }
)
"""A tenth of a second of processor and more, each with what it imports."""

LAZY: Final = (
    "fabstir.chain",
    "fabstir.chain.contracts",
    "fabstir.db",
    "fabstir.node",
    "fabstir.sdk",
    "fabstir.telemetry",
)


def imported_by(*arguments: str) -> frozenset[str]:
    """The packages that a run of the interpreter imports, ours and others'."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    assert "fabstir.primitives.errors" in names or "fabstir.sdk" in names, "it is of our code"
    return frozenset(name.partition(".")[0] for name in names)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "fabstir", "--help"),
        ("-m", "fabstir", "--version"),
        ("-c", "import fabstir.sdk"),
        ("-c", "import fabstir.cli.config_commands"),
        ("-c", "import fabstir.cli.host_account"),
    ],
    ids=lambda arguments: arguments[-1],
)
def test_what_needs_no_libraries_waits_for_none(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments) & HEAVY == set()


def test_help_is_printed_without_parsers_of_markdown_and_python() -> None:
    parsers = {"anyio", "markdown_it", "pygments", "tomllib"}

    assert imported_by("-m", "fabstir", "--help") & parsers == set()


def test_who_only_looks_at_a_wallet_waits_for_no_libp2p() -> None:
    looking = "import fabstir.cli.renter, fabstir.sdk.read_only"

    assert imported_by("-c", looking) & {"libp2p", "trio", "numpy", "websockets"} == set()


def test_a_wallets_keys_need_only_its_library() -> None:
    needed = {"eth_abi", "eth_account", "pydantic"}

    assert imported_by("-c", "import fabstir.cli.keys") & HEAVY <= needed


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_package_gives_what_type_checkers_read(package: str) -> None:
    module = importlib.import_module(package)

    declared = dict(declared_imports(Path(str(module.__file__))))
    found = {name: getattr(module, name) for name in module.__all__}

    assert set(declared) == set(module.__all__)
    for name, home in declared.items():
        assert found[name] is getattr(importlib.import_module(home), name)
    assert dir(module) == sorted(module.__all__)


def declared_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Each name that a package takes from its modules in `if TYPE_CHECKING`, and the module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fabstir."):
            yield from ((a.name, str(node.module)) for a in node.names if a.name != "lazy_names")


def test_a_name_that_is_not_there_is_refused_as_by_any_module() -> None:
    sdk = importlib.import_module("fabstir.sdk")

    with pytest.raises(AttributeError, match="has no attribute"):
        _ = sdk.nothing
