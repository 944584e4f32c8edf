"""`fabstir devnet`: a local chain with the contracts, an approved model and funded accounts."""

from __future__ import annotations

from typing import Annotated

import typer

from fabstir.chain.anvil import DEV_CHAIN_ID
from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import show, table
from fabstir.cli.signals import until_interrupted
from fabstir.config import Settings
from fabstir.crypto import checksum_address
from fabstir.node.models import model_offers
from fabstir.primitives.ids import ChainId
from fabstir.primitives.units import Wei

app = typer.Typer()

_DEFAULTS = DevnetParameters()


@app.command("devnet")
def devnet(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(help="Of the chain's RPC; 0: any free one.")] = 8545,
    chain_id: Annotated[
        int,
        typer.Option(help="For software that insists on one, as 84532; never with real keys."),
    ] = DEV_CHAIN_ID,
    block_time: Annotated[
        int | None,
        typer.Option(
            help="Seconds between blocks; each transaction also gets one. None: only the latter."
        ),
    ] = None,
    interval_only: Annotated[
        bool,
        typer.Option(
            "--interval-only", help="With --block-time: no other blocks, as on a public chain."
        ),
    ] = False,
    base_fee: Annotated[
        int, typer.Option(help="Wei a gas; about 5000000 on Base.")
    ] = _DEFAULTS.base_fee,
) -> None:
    """Run a local chain until Ctrl-C. Its keys are public: nothing on it is worth anything."""
    settings = invocation(ctx).settings()
    parameters = DevnetParameters(
        port=port,
        chain_id=ChainId(chain_id),
        block_time=block_time,
        interval_only=interval_only,
        base_fee=Wei(base_fee),
    )
    run_async(lambda: _run(ctx, settings, parameters))


async def _run(ctx: typer.Context, settings: Settings, parameters: DevnetParameters) -> None:
    folder = settings.paths.data_dir / "deployments"
    async with (
        until_interrupted() as interruption,
        open_devnet(folder, dev_models(settings), parameters) as running,
    ):
        show(ctx, _facts(running), lambda: table("devnet", "", rows=_rows(running)))
        await interruption.wait()


def dev_models(settings: Settings) -> list[DevModel]:
    """The models that the settings name, approved on a devnet."""
    specs = [offer.spec for offer in model_offers(settings)]
    return [DevModel(spec.repo, spec.file, spec.sha256) for spec in specs]


def _facts(running: Devnet) -> dict[str, object]:
    return {
        "rpc_url": running.rpc_url,
        "chain_id": running.deployment.chain_id,
        "deployment": running.deployment_path,
        "warnings": _warnings(running),
        "accounts": [
            {"address": checksum_address(s.address), "public_test_key": "0x" + s.secret_key.hex()}
            for s in running.accounts
        ],
    }


def _warnings(running: Devnet) -> list[str]:
    texts = ["These keys are public: never send anything of value to them, on any chain."]
    if (chain_id := running.deployment.chain_id) != DEV_CHAIN_ID:
        texts.append(
            f"Chain id {chain_id} may be a public chain's: what a key signs here can be replayed "
            "there. Never use a key here that has anything there. `fabstir serve` and the other "
            f"commands need FABSTIR_CHAIN_CHAIN_ID={chain_id} (chain.chain_id)."
        )
    return texts


def _rows(running: Devnet) -> list[tuple[str, str]]:
    accounts = [
        (f"account {index}", f"{checksum_address(s.address)}  key 0x{s.secret_key.hex()}")
        for index, s in enumerate(running.accounts)
    ]
    warnings = [("", text) for text in _warnings(running)]
    return [
        ("RPC", running.rpc_url),
        ("chain id", str(running.deployment.chain_id)),
        ("deployment", str(running.deployment_path)),
        *accounts,
        *warnings,
        ("", "Ctrl-C ends the chain and forgets it."),
    ]
