"""The entry point: global options, the table of commands, and what errors look like."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, cast

import typer
from typer._click.exceptions import (  # pyright: ignore[reportPrivateUsage] - the public ones are its leaves
    ClickException,
)

from fabstir import __version__
from fabstir.cli.context import Invocation
from fabstir.cli.help_renderer import load_help_renderer
from fabstir.cli.output import note, output_closed, say, show_error, show_uncaught
from fabstir.cli.streams import complete_standard_streams
from fabstir.primitives.errors import ConfigError, FabstirError
from fabstir.primitives.groups import leaves
from fabstir.telemetry import LogLevel, configure_logging

_HELP = """A market for LLM inference without a middleman.

The options below may stand before or after a command. Every setting can also be given as
FABSTIR_SECTION_NAME. Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: which module's `app` has it, and its line in `fabstir --help`."""

    module: str
    help: str


COMMANDS = {
    "demo": Entry("demo", "Watch a paid conversation end to end, on a chain of its own."),
    "serve": Entry("host", "Turn this machine into a host: serve models and be paid."),
    "status": Entry("host_account", "Show what this host serves, and whether it is earning."),
    "register": Entry("host", "Stake and register this host, or update its entry."),
    "unregister": Entry("host_account", "Leave the registry and get the stake back."),
    "withdraw": Entry("host_account", "Withdraw what this host has earned."),
    "chat": Entry("renter", "Talk to a model on somebody's machine, and pay for the tokens."),
    "hosts": Entry("renter", "List the hosts of a model with price and latency."),
    "balance": Entry("renter", "Show what the wallet holds and what is locked."),
    "sessions": Entry("renter", "List, close or recover paid sessions."),
    "s5": Entry("s5.app", "Store files and blobs; run a storage node."),
    "models": Entry("models", "Pull, list, check and remove model files."),
    "keys": Entry("keys", "Make, import or show this machine's keys."),
    "config": Entry("config_commands", "Show or change the settings."),
    "devnet": Entry("devnet", "Run a local chain with the contracts and funded accounts."),
}

_OUTPUT_FAILURES = frozenset({errno.ENOSPC, errno.EPIPE, errno.EIO})
"""Of a help text, which typer writes by itself."""

_FLAGS = frozenset({"--json", "--log-json"})
_OPTIONS = frozenset({"--config", "--set", "--log-level"})


def main() -> None:
    """Run the command line and exit."""
    sys.excepthook = show_uncaught
    complete_standard_streams()
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        The exit code. Errors that are not ours come out as they are, with their traceback.
    """
    options, rest = hoist_global_options(args)
    try:
        _require_working_folder()
        if not rest or "--help" in rest:
            load_help_renderer()
        command = load_command(rest[0] if rest and rest[0] in COMMANDS else None)
        code = command([*options, *rest], prog_name="fabstir", standalone_mode=False)
    except typer.Abort:
        note("aborted")
        return EXIT_FAILED
    except ClickException as exc:
        return _report_usage(exc)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else EXIT_FAILED
    except (FabstirError, BaseExceptionGroup) as exc:
        return _report(exc)
    except OSError as exc:
        is_help = not rest or "--help" in rest
        if not is_help or exc.errno not in _OUTPUT_FAILURES:
            raise
        return _report(output_closed(exc))
    return code if isinstance(code, int) else 0


def _require_working_folder() -> None:
    """Raises ConfigError: the folder in which the command was started is gone."""
    try:
        Path.cwd()
    except FileNotFoundError as exc:
        raise ConfigError("the working folder was removed: change to another one") from exc


def hoist_global_options(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the global options from wherever they stand, so that `fabstir balance --json` works.

    Returns:
        The global options, and the rest; what follows `--` is left alone.
    """
    options: list[str] = []
    rest: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        if arg == "--":
            rest += [arg, *remaining]
        elif arg in _FLAGS or arg.partition("=")[0] in _OPTIONS:
            options.append(arg)
            if arg in _OPTIONS:
                options += [value for value in [next(remaining, None)] if value is not None]
        else:
            rest.append(arg)
    return options, rest


@cache
def load_command(name: str | None) -> Callable[..., object]:
    """What runs one command of the table, or names all of them.

    Built once in a process: typer reads every signature of `fabstir s5`, which takes some 20 ms.
    Not called through its `Typer`, which would put its own `sys.excepthook` in the place of ours.

    Raises:
        ConfigError: the command needs a library that is not installed.
    """
    return typer.main.get_command(build_app(name))


def build_app(command: str | None) -> typer.Typer:
    """The app with one command's module loaded, or with the names of all commands.

    Importing every module takes seconds (eth-account, libp2p); `--help` and a typing error
    should not.

    Raises:
        ConfigError: the command needs a library that is not installed.
    """
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        # Its tracebacks can show local variables, and with them keys.
        pretty_exceptions_enable=False,
    )
    app.callback()(_global_options)
    if command in COMMANDS:
        app.add_typer(_load(command))
    else:
        for name, entry in COMMANDS.items():
            app.command(name, help=entry.help)(_listed_only)
    return app


def _load(command: str) -> typer.Typer:
    try:
        module = importlib.import_module(f"fabstir.cli.{COMMANDS[command].module}")
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("fabstir"):
            raise
        raise ConfigError(
            f"`fabstir {command}` needs {exc.name}, which is not installed: "
            "install `fabstir[node]` instead of `fabstir`"
        ) from exc
    return cast("typer.Typer", module.app)


def _listed_only() -> None:
    """Stands for a command in the list of commands; never run."""


def _show_version(asked: bool) -> None:
    if asked:
        say(f"fabstir {__version__}")
        raise typer.Exit


def _global_options(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None, typer.Option(help="The settings file (also: FABSTIR_CONFIG).")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Override a setting; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged.")] = "warning",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log as JSON lines.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    configure_logging(log_level, json_lines=log_json)
    ctx.obj = Invocation(
        config_file=config, overrides=dict(map(_override, overrides or [])), as_json=as_json
    )


def _override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not SECTION.NAME=VALUE")
    return key, value


def _report_usage(error: ClickException) -> int:
    """Wrong usage, in our own form: typer's would print what was typed as it stands."""
    text = error.format_message()
    if text:  # none: the help was shown instead
        command = getattr(getattr(error, "ctx", None), "command_path", "fabstir")
        show_error(f"{text} (see `{command} --help`)")
    return error.exit_code


def _report(error: FabstirError | BaseExceptionGroup[BaseException]) -> int:
    """Show every error of ours once, and choose the exit code; anything else is raised again."""
    found = leaves(error)
    ours = [leaf for leaf in found if isinstance(leaf, FabstirError)]
    interrupted = any(isinstance(leaf, KeyboardInterrupt) for leaf in found)
    if len(ours) + interrupted < len(found):
        raise error
    for text in dict.fromkeys(str(leaf) for leaf in ours):
        show_error(text)
    if not ours:
        return EXIT_INTERRUPTED
    return EXIT_USAGE if all(isinstance(leaf, ConfigError) for leaf in ours) else EXIT_FAILED
