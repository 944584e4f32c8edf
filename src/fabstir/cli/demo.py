"""`fabstir demo`: a paid conversation, end to end, every part real, on a chain of its own."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.chain.keystore import Signer
from fabstir.cli.context import invocation, run_async
from fabstir.cli.host_process import HostProcess, open_host_process, prepare_wallet
from fabstir.cli.money_table import read_money
from fabstir.cli.output import console, print_result, say, say_part, table
from fabstir.cli.signals import until_interrupted
from fabstir.config import Settings, load_settings
from fabstir.crypto import checksum_address
from fabstir.models import DEMO_MODEL, fetch_model
from fabstir.primitives.ids import NATIVE_TOKEN, JobId
from fabstir.primitives.units import Wei, format_amount, parse_amount
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import (
    AsyncClient,
    AsyncSession,
    Finished,
    HostOffer,
    ReceiptVerified,
    Text,
    open_async_client,
)
from fabstir.web.control import ask_running_host

app = typer.Typer()

DEPOSIT = parse_amount("0.001", 18)
PRICES = (parse_amount("0.0002", 18), parse_amount("0.0003", 18))
"""Wei for a million tokens: the renter takes the cheaper host."""

QUESTIONS = (
    "What is the capital of Italy? Answer in one sentence.",
    "What is that city famous for? Answer in one sentence.",
)
"""The second cannot be answered without the first."""

SAMPLING = SamplingParams(max_tokens=96, temperature=0)

MAX_MODEL_LEN = "2048"
NUM_SLOTS = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What stands before the first question is asked."""

    devnet: Devnet
    hosts: tuple[HostProcess, ...]
    renter: Signer
    renter_settings: Settings
    folder: Path


@app.command("demo")
def demo(
    ctx: typer.Context,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave chain and hosts running until Ctrl-C.")
    ] = False,
) -> None:
    """Watch a paid conversation: find a host, lock a deposit, talk, prove, settle, withdraw."""
    settings = invocation(ctx).settings()
    with tempfile.TemporaryDirectory(prefix="fabstir-demo-") as folder:
        run_async(lambda: _run(Path(folder), settings.paths.cache_dir, keep=keep))


async def _run(folder: Path, cache_dir: Path, *, keep: bool) -> None:
    async with until_interrupted() as interruption, AsyncExitStack() as stack:
        await _fetch(cache_dir)
        stage = await stack.enter_async_context(_open_stage(folder, cache_dir))
        await _talk(stage)
        if keep:
            _say_how_to_join(stage)
            await interruption.wait()


def _step(text: str) -> None:
    say(f"\n{text}", style="bold")


async def _fetch(cache_dir: Path) -> None:
    _step("1. The model")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(DEMO_MODEL.file, total=None)

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        path = await fetch_model(DEMO_MODEL, cache_dir / "models", on_progress=on_progress)
    say(f"{path.name}, sha256 {DEMO_MODEL.sha256[2:]} verified")


@asynccontextmanager
async def _open_stage(folder: Path, cache_dir: Path) -> AsyncGenerator[_Stage]:
    model = DevModel(DEMO_MODEL.repo, DEMO_MODEL.file, DEMO_MODEL.sha256)
    async with AsyncExitStack() as stack:
        _step("2. A chain of its own, with the contracts")
        parameters = DevnetParameters(port=0)
        devnet = await stack.enter_async_context(
            open_devnet(folder / "deployments", [model], parameters)
        )
        marketplace = checksum_address(devnet.deployment.job_marketplace)
        say(f"chain {devnet.chain.chain_id} at {devnet.rpc_url}, JobMarketplace {marketplace}")
        _step("3. Two hosts, each a process with its own engine, stake and price")
        hosts: list[HostProcess] = []
        for index, price in enumerate(PRICES):
            settings = host_settings(devnet, cache_dir, price, hosts[:1])
            name = folder / f"host-{index + 1}"
            host = await stack.enter_async_context(
                open_host_process(name, devnet.accounts[index], settings)
            )
            hosts.append(host)
            say(
                f"host {checksum_address(host.account)} at {host.api_url}, "
                f"{format_amount(price, 18)} ETH per million tokens; {host.models[0]['engine']}"
            )
        renter = devnet.accounts[len(PRICES)]
        yield _Stage(
            devnet=devnet,
            hosts=tuple(hosts),
            renter=renter,
            renter_settings=await _renter_settings(folder / "renter", renter, devnet, hosts),
            folder=folder,
        )
        _step("The hosts finish, prove, settle and stop")
        for host in hosts:
            say(f"{host.api_url} ended with status {await host.stop()}")


def host_settings(
    devnet: Devnet, cache_dir: Path, price: Wei, bootstrap: list[HostProcess]
) -> dict[str, str]:
    """The settings of a demo host: any free ports, one shared model file."""
    peers = ",".join(host.p2p_address for host in bootstrap)
    return {
        "chain.rpc_url": devnet.rpc_url,
        "chain.ws_url": devnet.rpc_url.replace("http", "ws", 1),
        "chain.deployment": str(devnet.deployment_path),
        "chain.poll_seconds": "0.5",
        "paths.cache_dir": str(cache_dir),
        "host.port": "0",
        "host.price_native_per_million": str(price),
        "p2p.port": "0",
        "p2p.bootstrap": peers,
        "metrics.port": "0",
        "s5.port": "0",
        "network.allow_private": "true",
        "model.max_model_len": MAX_MODEL_LEN,
        "model.num_slots": NUM_SLOTS,
    }


async def _renter_settings(
    folder: Path, renter: Signer, devnet: Devnet, hosts: list[HostProcess]
) -> Settings:
    await anyio.Path(folder).mkdir()
    await prepare_wallet(folder, renter)
    config = folder / "config.toml"
    peers = ", ".join(f'"{host.p2p_address}"' for host in hosts)
    await anyio.Path(config).write_text(
        f'[chain]\nrpc_url = "{devnet.rpc_url}"\ndeployment = "{devnet.deployment_path}"\n'
        f'[paths]\ndata_dir = "data"\n[p2p]\nbootstrap = [{peers}]\n'
        "[network]\nallow_private = true\n"
    )
    return load_settings(file=config)


async def _talk(stage: _Stage) -> None:
    devnet = stage.devnet
    chain, contracts = devnet.chain, devnet.contracts
    renter = (stage.renter.address, await chain.balance(stage.renter.address))
    coins = {host.account: await chain.balance(host.account) for host in stage.hosts}
    treasury_before = await contracts.marketplace.treasury_accumulated(NATIVE_TOKEN)
    from_block = await chain.block_number()
    async with open_async_client(stage.renter_settings) as client:
        offer = await _choose(client)
        job_id = await _converse(client, offer)
        chosen = next(host for host in stage.hosts if host.account == offer.host)
        _step("8. Withdrawal")
        withdrawn = await ask_running_host(chosen.data_dir, "withdraw")
        say(f"the host withdrew {format_amount(withdrawn['native'], 18)} ETH")
    _step("9. The money, read back from the chain")
    money = await read_money(
        chain,
        contracts,
        job_id,
        renter=renter,
        host=(offer.host, coins[offer.host]),
        treasury_before=treasury_before,
        from_block=from_block,
    )
    print_result(console, money.render())
    say("every sum adds up", style="green")


async def _choose(client: AsyncClient) -> HostOffer:
    _step("4. The renter finds hosts over libp2p and checks them against the chain")
    offers = await client.find_hosts()
    rows = [
        (
            checksum_address(offer.host),
            format_amount(offer.price_per_million, 18),
            f"{offer.latency * 1000:.1f} ms",
        )
        for offer in offers
    ]
    print_result(console, table("host", "ETH per million", "latency", rows=rows))
    return offers[0]


async def _converse(client: AsyncClient, offer: HostOffer) -> JobId:
    quote = await client.quote(offer, DEPOSIT)
    _step("5. The deposit")
    say(
        f"{format_amount(DEPOSIT, 18)} ETH pay for up to {quote.max_tokens} tokens; gas to open "
        f"about {format_amount(quote.gas_to_open, 18)} ETH"
    )
    async with client.open_session(offer, deposit=DEPOSIT) as session:
        say(f"session {session.job_id} is open")
        _step("6. The conversation, end-to-end encrypted; each receipt verified as it comes")
        messages: list[Message] = []
        for question in QUESTIONS:
            messages.append(Message("user", question))
            messages.append(Message("assistant", await _ask(session, messages)))
        _step("7. Proof and settlement")
        settlement = await session.close()
        say(
            f"{settlement.outcome}: {settlement.tokens_settled} tokens proven and paid, "
            f"{format_amount(settlement.refund, 18)} ETH came back"
        )
        return session.job_id


async def _ask(session: AsyncSession, messages: list[Message]) -> str:
    say_part("\nrenter: ", style="cyan")
    say(messages[-1].text)
    say_part("model:  ", style="cyan")
    said = ""
    async with session.chat(messages, sampling=SAMPLING) as answer:
        async for event in answer:
            match event:
                case Text(text=text):
                    said += text
                    say_part(text)
                case ReceiptVerified(receipt=receipt):
                    _show_receipt(event, receipt.sequence, receipt.work.output_commitment)
                case Finished(finish_reason=reason):
                    say(f"   ended: {reason}", style="dim")
    return said


def _show_receipt(event: ReceiptVerified, sequence: int, commitment: str) -> None:
    say(
        f"\n   receipt {sequence} verified: {event.cumulative_tokens} tokens, "
        f"{format_amount(event.cost, 18)} ETH so far, {format_amount(event.deposit_left, 18)} "
        f"left; output {commitment[:18]}...",
        style="dim",
    )


def _say_how_to_join(stage: _Stage) -> None:
    config = stage.renter_settings.file
    _step("Still running. Join from another terminal, in this folder:")
    print_result(console, f".venv/bin/fabstir --config {config} chat")
    say("Ctrl-C here ends it all.")
