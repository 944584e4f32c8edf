"""What every command knows: the global options of its command line, and how to run async code."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from fabstir.config import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global options."""

    config_file: Path | None
    """As the user gave it; None: the default."""
    overrides: Mapping[str, str]
    """`--set section.name=value`."""
    as_json: bool

    def settings(self, extra: Mapping[str, str] | None = None) -> Settings:
        """The settings of this command line.

        Args:
            extra: the command's own flags, "section.name" to text; they win over --set.

        Raises:
            ConfigError: a setting is wrong.
        """
        from fabstir.config import load_settings  # `--help` needs none

        return load_settings(file=self.config_file, overrides={**self.overrides, **(extra or {})})

    def settings_file(self) -> Path:
        """Where the settings are or would be; the file need not exist."""
        from fabstir.config import locate_config_file

        return locate_config_file(self.config_file)


def invocation(ctx: typer.Context) -> Invocation:
    """The global options, from any command."""
    found = ctx.find_object(Invocation)
    assert found is not None, "the app's callback runs before every command"
    return found


def run_async(main: Callable[[], Awaitable[T]]) -> T:
    """Run one async function to its end, on uvloop where it is installed (the node extra).

    Ctrl-C cancels it, so that every block it has open is left properly, and then ends the
    command.
    """
    import anyio  # `--help` needs none

    use_uvloop = importlib.util.find_spec("uvloop") is not None
    return anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})
