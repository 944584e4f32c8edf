"""`fabstir config show|set`."""

from __future__ import annotations

from typing import Annotated

import typer

from fabstir.cli.context import invocation
from fabstir.cli.output import show, table
from fabstir.config import set_settings

config = typer.Typer(help="Show or change the settings.", no_args_is_help=True)
app = typer.Typer()
app.add_typer(config, name="config")


@config.command("show")
def show_settings(ctx: typer.Context) -> None:
    """Show every setting, its value, and where the value comes from."""
    settings = invocation(ctx).settings()
    described = settings.describe()
    data = {
        "file": settings.file,
        "settings": {s.name: {"value": s.value, "origin": s.origin} for s in described},
    }
    rows = [(s.name, "" if s.value is None else str(s.value), s.origin) for s in described]
    show(ctx, data, lambda: table("setting", "value", "from", rows=rows))


@config.command("set")
def change_settings(
    ctx: typer.Context,
    changes: Annotated[list[str], typer.Argument(metavar="SECTION.NAME=VALUE...")],
) -> None:
    """Write settings into the file; an empty value removes an optional one.

    Settings that need each other (host.public and host.api_url) are given together.
    """
    file = invocation(ctx).settings_file()
    wanted = list(map(_change, changes))
    changed = [key for key, _ in wanted]
    if twice := next((key for key in changed if changed.count(key) > 1), None):
        raise typer.BadParameter(f"{twice} is given twice: which of the values is meant?")
    set_settings(file, dict(wanted))
    data = {"file": file, "changed": changed}
    show(ctx, data, lambda: f"{file}: changed {', '.join(changed)}")


def _change(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not SECTION.NAME=VALUE")
    return key, value
