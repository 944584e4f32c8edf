"""The host's commands: serve, status, register, unregister, withdraw."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Self

import anyio.to_thread
import typer
from rich.console import RenderableType

from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import (
    StatusLine,
    ask_yes,
    error_console,
    lines,
    note,
    print_result,
    show,
    table,
)
from fabstir.cli.s5.node import s5_facts
from fabstir.cli.signals import until_interrupted
from fabstir.config import Settings
from fabstir.config.edit import set_settings
from fabstir.crypto import checksum_address
from fabstir.node.build import Host, open_host
from fabstir.node.models import model_offers, model_prices
from fabstir.node.registration import Confirm, RegistrationPlan
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ModelId
from fabstir.primitives.units import (
    COIN_DECIMALS,
    FAB_DECIMALS,
    USDC_DECIMALS,
    PricePerToken,
    format_amount,
    price_per_million,
)
from fabstir.web.inbound.server import forget_start

app = typer.Typer()

Yes = Annotated[
    bool,
    typer.Option(
        "--yes", help="Stake and register without asking; sets host.auto_register = true."
    ),
]


@app.command("serve")
def serve(ctx: typer.Context, *, yes: Yes = False) -> None:
    """Serve until Ctrl-C, which finishes running answers and proves what was agreed to."""
    settings = invocation(ctx).settings()
    run_async(lambda: _serve(ctx, settings, is_confirmed=yes or settings.host.auto_register))


async def _serve(ctx: typer.Context, settings: Settings, *, is_confirmed: bool) -> None:
    async with until_interrupted() as interruption, AsyncExitStack() as stack:
        with _Starting() as starting:
            confirm = _confirmation(settings, starting, is_confirmed=is_confirmed)
            host = await stack.enter_async_context(
                open_host(settings, confirm=confirm, on_progress=starting.progress)
            )
        show(ctx, _serving(host), lambda: table("", "", rows=_serving_rows(host)))
        _show_how_to_reach(host)
        sys.stdout.flush()
        forget_start()
        await interruption.wait()
        note("draining: no new work; finishing and proving what there is")
        await host.drain()


def _show_how_to_reach(host: Host) -> None:
    """What a renter needs, each on one line, however narrow the terminal: it is copied."""
    for address in host.p2p.addresses:
        note(f"fabstir config set p2p.bootstrap={address}", style="dim")


class _Starting:
    """One line on the terminal that says what start-up is doing."""

    def __init__(self) -> None:
        self._status = StatusLine("starting")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._status.stop()

    def progress(self, what: str, how_far: str) -> None:
        """See `node.models.Progress`."""
        self._status.update(f"{what}: {how_far}")

    def pause(self) -> None:
        """Before a question is asked."""
        self._status.stop()


def _confirmation(settings: Settings, starting: _Starting, *, is_confirmed: bool) -> Confirm:
    """Ask the owner once; a yes is written into the settings and stands from then on."""

    async def confirm(plan: RegistrationPlan) -> bool:
        starting.pause()
        _show_plan(plan, {offer.model_id: offer.name for offer in model_offers(settings)})
        is_yes = is_confirmed
        if not is_yes and sys.stdin.isatty():
            question = "Stake and register now, and whenever it serves?"
            is_yes = await anyio.to_thread.run_sync(lambda: ask_yes(question))
        if is_yes and not settings.host.auto_register:
            set_settings(settings.file, {"host.auto_register": "true"})
        return is_yes

    return confirm


def _show_plan(plan: RegistrationPlan, names: Mapping[ModelId, str]) -> None:
    rows = [
        ("account", checksum_address(plan.account)),
        ("stake", f"{format_amount(plan.stake, FAB_DECIMALS)} FAB, back when you unregister"),
        ("URL", plan.entry.api_url),
        ("reachable", plan.reachability),
        *(
            ("model", _priced(names.get(model_id, model_id), prices))
            for model_id, prices in plan.entry.prices.items()
        ),
    ]
    print_result(error_console, table("registering this host", "", rows=rows))


def _priced(name: str, prices: Mapping[Address, PricePerToken]) -> str:
    native = price_per_million(prices[NATIVE_TOKEN])
    return f"{name} at {format_amount(native, COIN_DECIMALS)} ETH per million tokens"


def _serving(host: Host) -> dict[str, object]:
    return {
        "account": checksum_address(host.market.signer.address),
        "api_url": host.api_url,
        "metrics_url": f"http://127.0.0.1:{host.metrics_port}/metrics",
        "p2p_addresses": list(host.p2p.addresses),
        "models": [
            {
                "model_id": model.model_id,
                "model": model.name,
                "max_model_len": model.info.max_model_len,
                "num_slots": model.info.num_slots,
                "engine": model.info.tuning,
            }
            for model in host.models
        ],
        **s5_facts(host.s5),
    }


def _serving_rows(host: Host) -> list[tuple[str, RenderableType]]:
    facts = _serving(host)
    settings = host.market.settings
    prices = model_prices(settings, host.market.contracts.usdc.address)
    return [
        ("serving", lines(*(model.name for model in host.models))),
        ("host", str(facts["account"])),
        ("API", str(facts["api_url"])),
        ("libp2p", lines(*host.p2p.addresses)),
        ("S5", str(facts["s5_url"])),
        ("metrics", str(facts["metrics_url"])),
        ("price", lines(*(_price(prices[model.model_id]) for model in host.models))),
        ("engine", lines(*(model.info.tuning for model in host.models))),
        ("stop", "Ctrl-C: finishes answers, proves, settles"),
    ]


def _price(prices: Mapping[Address, PricePerToken]) -> str:
    (usdc,) = (price for token, price in prices.items() if token != NATIVE_TOKEN)
    coin = format_amount(price_per_million(prices[NATIVE_TOKEN]), COIN_DECIMALS)
    dollars = format_amount(price_per_million(usdc), USDC_DECIMALS)
    return f"{coin} ETH or {dollars} USDC per million tokens"


@app.command("register")
def register(ctx: typer.Context, *, yes: Yes = False) -> None:
    """Stake and register, or bring this host's entry in line with the settings, and stop."""
    settings = invocation(ctx).settings()
    run_async(lambda: _register(ctx, settings, is_confirmed=yes or settings.host.auto_register))


async def _register(ctx: typer.Context, settings: Settings, *, is_confirmed: bool) -> None:
    # The entry names the model, the peer id and the URL: a host that starts knows them all.
    with _Starting() as starting:
        confirm = _confirmation(settings, starting, is_confirmed=is_confirmed)
        async with open_host(settings, confirm=confirm, on_progress=starting.progress) as host:
            account, api_url = checksum_address(host.market.signer.address), host.api_url
    facts = {"account": account, "api_url": api_url}
    show(ctx, facts, lambda: f"registered {account} at {api_url}")
