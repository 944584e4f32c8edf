"""`fabstir s5 serve|login|probe`: the node itself, and the portals that it may use."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import note, show, table
from fabstir.cli.s5.access import open_access
from fabstir.cli.signals import until_interrupted
from fabstir.config import Settings
from fabstir.crypto import NATIVE
from fabstir.s5.portals import (
    Check,
    PortalReport,
    open_client,
    parse_origin,
    probe,
)
from fabstir.s5.run.build import S5Running, open_s5
from fabstir.s5.run.parts import s5_folder
from fabstir.s5.run.portal_accounts import account_file
from fabstir.telemetry.metrics import LOOPBACK, MetricsRegistry, open_metrics_server
from fabstir.web.inbound.server import forget_start, require_free

app = typer.Typer()


@app.command("serve")
def serve(ctx: typer.Context) -> None:
    """Serve blobs and files until Ctrl-C, without being a host. `fabstir serve` does it too."""
    settings = invocation(ctx).settings()
    run_async(lambda: _serve(ctx, settings))


async def _serve(ctx: typer.Context, settings: Settings) -> None:
    s5_place = (settings.s5.listen, settings.s5.port, "s5.port")
    require_free(s5_place, (LOOPBACK, settings.metrics.port, "metrics.port"))
    async with until_interrupted() as interruption, AsyncExitStack() as stack:
        registry = MetricsRegistry()
        port = await stack.enter_async_context(open_metrics_server(registry, settings.metrics.port))
        s5 = await stack.enter_async_context(open_s5(settings, registry))
        facts = {**s5_facts(s5), "metrics_url": f"http://127.0.0.1:{port}/metrics"}
        show(ctx, facts, lambda: table("", "", rows=_rows(facts)))
        # On a line of its own, however narrow the terminal: it is copied.
        note(f"fabstir config set s5.peers={s5.p2p_uri}", style="dim")
        sys.stdout.flush()
        forget_start()
        await interruption.wait()


def s5_facts(s5: S5Running) -> dict[str, Any]:
    """What a program needs to know of a node that serves; the token is only named."""
    return {
        "s5_url": s5.url,
        "s5_local_url": s5.local_url,
        "s5_p2p_uri": s5.p2p_uri,
        "s5_folder": s5.parts.folder,
        "s5_token_file": s5.token_file,
    }


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("S5", f"{facts['s5_url']}: portal API, /s5/fs/PATH, /s5/p2p"),
        ("here", str(facts["s5_local_url"])),
        ("peers dial", str(facts["s5_p2p_uri"])),
        ("folder", str(facts["s5_folder"])),
        ("token", f"{facts['s5_token_file']} opens everything: keep it"),
        ("metrics", str(facts["metrics_url"])),
        ("stop", "Ctrl-C"),
    ]


@app.command("login")
def login(
    ctx: typer.Context,
    portal: Annotated[str, typer.Argument(metavar="URL", help="https://host[:port]")],
    *,
    invite: Annotated[
        str | None, typer.Option(help="The operator's token, where registration is closed.")
    ] = None,
) -> None:
    """Log in at a portal, with a new account if there is none; the token is kept (0600)."""
    settings = invocation(ctx).settings()

    async def run() -> Any:
        async with open_access(settings) as node:
            return await node.run("login", {"url": portal, "invite": invite})

    account = run_async(run)
    show(ctx, account, lambda: table("account", "", rows=_account_rows(account)))


def _account_rows(account: dict[str, Any]) -> list[tuple[str, str]]:
    used, limit = account["used_bytes"], account["limit_bytes"]
    rows = [
        ("portal", account["url"]),
        ("tier", account["tier"] or "-"),
        ("used", "-" if used is None else decimal(used)),
        ("limit", "-" if limit is None else decimal(limit)),
    ]
    if not account["is_configured"]:
        rows.append(("next", f"fabstir config set s5.portals={account['url']} s5.replicas=2"))
    return rows


@app.command("probe")
def probe_portal(
    ctx: typer.Context,
    portal: Annotated[str, typer.Argument(metavar="URL", help="https://host[:port]")],
) -> None:
    """Try once what a portal can do, in the name of our account there if we have one."""
    settings = invocation(ctx).settings()

    async def run() -> PortalReport:
        url, _authority = parse_origin(portal)
        account = await account_file(s5_folder(settings)).load(url)
        async with open_client() as client:
            token = account.token if account is not None else None
            return await probe(url, client, NATIVE, token=token or None)

    report = run_async(run)
    show(ctx, report, lambda: table(report.url, "", "", rows=list(map(_check_row, report.checks))))
    if report.seconds is None:
        raise typer.Exit(1)


def _check_row(check: Check) -> tuple[str, str, str]:
    marks = {True: "yes", False: "no", None: "-"}
    return check.name, marks[check.ok], check.detail
