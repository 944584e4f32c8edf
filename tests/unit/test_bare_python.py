"""The pure core runs in a Python with nothing installed: on a phone, in a browser, in a tool."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).resolve().parents[2] / "src"

MAX_CPU_SECONDS: Final = 0.2
"""For all of it at once; a quarter of a second is when people notice that they wait."""

ATTEMPTS: Final = 5
"""The first one compiles, and another program may take the core away: the best one counts."""

CORE: Final = """
import importlib, json, pkgutil, sys, time
sys.path.insert(0, sys.argv[1])
begin = time.process_time()
import fabstir.primitives, fabstir.protocol
names = ["fabstir.market.selection", "fabstir.market.settlement", "fabstir.market.worth"]
for package in (fabstir.primitives, fabstir.protocol):
    modules = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    names += [module.name for module in modules]
for name in names:
    importlib.import_module(name)
print(json.dumps({"names": names, "seconds": time.process_time() - begin}))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True, with_pip=False)
    return folder / "bin" / "python"


def test_the_core_imports_without_any_dependency_and_at_once(bare_python: Path) -> None:
    runs = [
        subprocess.run([bare_python, "-I", "-c", CORE, SOURCE], capture_output=True, text=True)
        for _ in range(ATTEMPTS)
    ]

    assert [run.stderr for run in runs] == [""] * ATTEMPTS
    results = [json.loads(run.stdout) for run in runs]
    assert {"fabstir.primitives.units", "fabstir.protocol.receipts"} <= set(results[0]["names"])
    assert min(result["seconds"] for result in results) < MAX_CPU_SECONDS


def test_the_bare_python_has_none_of_our_dependencies(bare_python: Path) -> None:
    code = "import importlib.metadata as m; print([d.name for d in m.distributions()])"

    done = subprocess.run([bare_python, "-I", "-c", code], capture_output=True, text=True)

    assert done.stdout == "[]\n"
