"""The folders that this user's settings, data and downloads have by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import platformdirs

from fabstir.primitives.errors import ConfigError

APP: Final = "fabstir"

DATA_FILE_FOLDER: Final = Path("data")
CACHE_FILE_FOLDER: Final = Path("cache")
"""Beside the settings file, for a user without a home folder who names one."""


class NoHome(ConfigError):
    """A path begins in the home folder, and this user has none."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is in the home folder, and this user has none (HOME is not set, and "
            "/etc/passwd names none): set HOME, or name a settings file with --config or "
            "FABSTIR_CONFIG; what is kept goes beside it"
        )


def user_config_folder() -> Path | None:
    """None: this user has no home folder."""
    return _if_home(platformdirs.user_config_dir)


def user_data_folder() -> Path | None:
    """None: this user has no home folder."""
    return _if_home(platformdirs.user_data_dir)


def user_cache_folder() -> Path | None:
    """None: this user has no home folder."""
    return _if_home(platformdirs.user_cache_dir)


def _if_home(find: Callable[[str], str]) -> Path | None:
    try:
        return Path(find(APP))
    except RuntimeError:
        return None


def default_data_folder() -> Path:
    """Of settings that name none; a relative path is seen from the settings file's folder."""
    return user_data_folder() or DATA_FILE_FOLDER


def default_cache_folder() -> Path:
    """Of settings that name none; a relative path is seen from the settings file's folder."""
    return user_cache_folder() or CACHE_FILE_FOLDER


def expanded(path: Path) -> Path:
    """The path with ~ expanded.

    Raises:
        NoHome: this user has no home folder.
        ConfigError: nobody of the name behind the ~ has one.
    """
    try:
        return path.expanduser()
    except RuntimeError as exc:
        if path.parts[0] == "~":
            raise NoHome(str(path)) from exc
        raise ConfigError(
            f"{path} begins with the name of a user who has no home directory here: correct the "
            f"name, or write ./{path} for a file that is called so"
        ) from exc
