"""The same targets under a coverage-guided fuzzer, for a long night.

    uv pip install atheris
    python -m tests.fuzz.guided TARGET [libFuzzer options, such as -max_total_time=3600]

atheris runs on Linux and macOS only and is needed by nothing else, so it is not in the lock. New
inputs go to a temporary folder; what they find becomes a unit test and a file of the corpus.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from typing import Any

from tests.fuzz.mutation import CORPUS


def main(name: str, options: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["fabstir.primitives", "fabstir.protocol"]):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    folder = tempfile.mkdtemp(prefix="fabstir-fuzz-")  # libFuzzer exits: nothing could remove it
    atheris.Setup([sys.argv[0], *options, folder, str(CORPUS / name)], targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
