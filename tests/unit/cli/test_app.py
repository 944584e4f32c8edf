"""The command line as a whole: options, the table of commands, errors and exit codes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from fabstir.cli import app as cli_app
from fabstir.cli.app import COMMANDS, build_app, hoist_global_options, run
from fabstir.cli.output import show_uncaught
from fabstir.primitives.errors import ConfigError, FabstirError, RpcUnavailable

pytestmark = pytest.mark.usefixtures("restored_logging")


def run_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command that raises."""
    app = typer.Typer()

    @app.command()
    def fails() -> None:
        raise error

    def only_this_app(_command: str | None) -> Callable[..., object]:
        return typer.main.get_command(app)

    monkeypatch.setattr(cli_app, "load_command", only_this_app)
    return run([])


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["--help"])

    shown = capsys.readouterr().out
    assert code == 0
    assert all(f" {name} " in shown for name in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from fabstir.cli.app import run; run(['--help']);"
        "heavy = {'web3', 'libp2p', 'sqlalchemy', 'httpx', 'eth_account'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run([name, "--help"])

    assert code == 0
    assert f"Usage: fabstir {name}" in capsys.readouterr().out


def test_every_command_is_listed() -> None:
    defined: set[str | None] = set()
    for name in COMMANDS:
        (merged,) = (group.typer_instance for group in build_app(name).registered_groups)
        assert isinstance(merged, typer.Typer)
        defined |= {
            command.name or command.callback.__name__
            for command in merged.registered_commands
            if command.callback
        }
        defined |= {group.name for group in merged.registered_groups if isinstance(group.name, str)}

    assert defined == set(COMMANDS)


def test_a_typing_error_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["balanse"])

    assert code == 2
    assert "Did you mean 'balance'?" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == "fabstir 0.1.0\n"


@pytest.mark.parametrize(
    ("args", "options", "rest"),
    [
        (["balance", "--json"], ["--json"], ["balance"]),
        (["config", "show", "--config", "x"], ["--config", "x"], ["config", "show"]),
        (["chat", "--set=a.b=c", "--deposit", "1"], ["--set=a.b=c"], ["chat", "--deposit", "1"]),
        (["chat", "--", "--json"], [], ["chat", "--", "--json"]),
        (["chat", "--config"], ["--config"], ["chat"]),
    ],
)
def test_global_options_stand_anywhere(
    args: list[str], options: list[str], rest: list[str]
) -> None:
    assert hoist_global_options(args) == (options, rest)


def test_an_error_is_one_red_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RpcUnavailable("http://[1]:8545 does not answer: start the chain's node " + "x" * 100)

    code = run_with(error, monkeypatch)

    assert code == 1
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (ConfigError("a"), 2, ["error: a"]),
        (KeyboardInterrupt(), 130, []),
        (ExceptionGroup("", [ConfigError("a"), ConfigError("b")]), 2, ["error: a", "error: b"]),
        (ExceptionGroup("", [ConfigError("a"), FabstirError("a")]), 1, ["error: a"]),
        (ExceptionGroup("", [ExceptionGroup("", [FabstirError("a")])]), 1, ["error: a"]),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130, []),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(error, monkeypatch) == code
    assert capsys.readouterr().err.splitlines() == lines


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    bug = ExceptionGroup("", [ConfigError("a"), ZeroDivisionError()])

    with pytest.raises(ExceptionGroup) as caught:
        run_with(bug, monkeypatch)

    assert caught.value is bug


def test_what_shows_an_uncaught_error_is_left_in_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bugs' texts are strangers' as often as not: `show_uncaught` makes them fit for a terminal."""
    monkeypatch.setattr(sys, "excepthook", show_uncaught)

    assert run(["--version"]) == 0

    assert sys.excepthook is show_uncaught
    assert capsys.readouterr().out


def test_settings_come_from_file_set_and_json_shows_their_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "config.toml")

    assert run(["config", "set", "host.port=81", "host.location=here", "--config", file]) == 0
    assert run(["config", "show", "--config", file, "--set", "host.port=82"]) == 0

    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["host.port", "82", "flag"] in shown
    assert ["host.location", "here", "file"] in shown
    assert ["chain.chain_id", "31337", "default"] in shown


@pytest.mark.parametrize("args", [["config", "set", "host.port"], ["--set", "x", "config", "show"]])
def test_a_change_without_value_is_a_usage_error(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 2
    assert "SECTION.NAME=VALUE" in capsys.readouterr().err
