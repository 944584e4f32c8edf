"""What a host's owner asks of its books and of the chain, whether or not the host runs.

If it runs, it is asked, and nothing of database and chain is imported.
"""

from __future__ import annotations

import typer

from fabstir import node
from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import show, table
from fabstir.crypto import checksum_address
from fabstir.node.host_status import HostStatus
from fabstir.primitives.ids import Address
from fabstir.primitives.units import (
    COIN_DECIMALS,
    FAB_DECIMALS,
    USDC_DECIMALS,
    Wei,
    format_amount,
)
from fabstir.web.control import ask_running_host

app = typer.Typer()


@app.command("status")
def status(ctx: typer.Context) -> None:
    """Show what this host is registered with, what it earned, and what waits to be settled."""
    settings = invocation(ctx).settings()

    async def run() -> HostStatus:
        answer = await ask_running_host(settings.paths.data_dir, "status")
        if answer is not None:
            return HostStatus.from_json(answer)
        async with node.open_market(settings) as market:
            return await node.read_status(market, running=None)

    facts = run_async(run)
    show(ctx, facts, lambda: table("host", "", rows=_status_rows(facts)))


def _status_rows(facts: HostStatus) -> list[tuple[str, str]]:
    rows = [
        ("account", checksum_address(facts.account)),
        ("registered", "yes" if facts.is_registered else "no: run `fabstir register`"),
        ("URL", facts.api_url or "-"),
        ("stake", f"{format_amount(facts.stake, FAB_DECIMALS)} FAB"),
        ("coin for gas", f"{format_amount(facts.coin, COIN_DECIMALS)} ETH"),
        ("earned, not withdrawn", _amounts(facts.earned_native, facts.earned_usdc)),
        ("open sessions", str(facts.num_unsettled)),
        ("settled sessions", str(facts.num_settled)),
        ("tokens paid", str(facts.tokens_settled)),
        ("tokens written off, at most", str(facts.tokens_written_off)),
        ("running", "yes" if facts.is_running else "no"),
    ]
    if facts.held_native or facts.held_usdc:
        held = _amounts(facts.held_native, facts.held_usdc)
        rows.append(("held by the marketplace", f"{held}: `fabstir withdraw` gets it as well"))
    rows += [("engine", f"{name}: {state}") for name, state in facts.models.items()]
    return [*rows, *(("why", reason) for reason in facts.reasons)]


@app.command("unregister")
def unregister(ctx: typer.Context) -> None:
    """Leave the registry; the stake comes back at once. Open sessions still settle."""
    settings = invocation(ctx).settings()

    async def run() -> tuple[Address, Wei]:
        async with node.open_market(settings) as market:
            return market.signer.address, await market.registrar.unregister()

    account, stake = run_async(run)
    facts = {"account": checksum_address(account), "stake_returned": stake}
    show(ctx, facts, lambda: f"left; {format_amount(stake, FAB_DECIMALS)} FAB came back")


@app.command("withdraw")
def withdraw(ctx: typer.Context) -> None:
    """Withdraw all earnings, in ETH and USDC, to the host's wallet."""
    settings = invocation(ctx).settings()

    async def run() -> tuple[Wei, Wei]:
        answer = await ask_running_host(settings.paths.data_dir, "withdraw")
        if answer is not None:
            return Wei(answer["native"]), Wei(answer["usdc"])
        async with node.open_market(settings) as market:
            return await node.withdraw_all(market)

    native, usdc = run_async(run)
    facts = {"native": native, "usdc": usdc}
    show(ctx, facts, lambda: f"withdrawn: {_amounts(native, usdc)}")


def _amounts(native: Wei, usdc: Wei) -> str:
    coin = format_amount(native, COIN_DECIMALS)
    return f"{coin} ETH, {format_amount(usdc, USDC_DECIMALS)} USDC"
